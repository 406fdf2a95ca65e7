"""Scores of a zoo's models on the very images that they are fine-tuned on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from linft.core.task import Task
from linft.runtime import schema
from linft.runtime.progress import Count
from linft.runtime.schema import Number
from linft.scores.table import SCORES
from linft.workflows.benchmark.protocol import Protocol, Shots, Target, sample
from linft.workflows.benchmark.zoos import candidates, digest_of
from linft.workflows.rank.rank import rank


@dataclass(frozen=True)
class Sampled:
    """One sample of a target's images, on which a zoo's models are scored."""

    target: Target
    shots: Shots
    seed: int
    per_class: int
    """At most so many of the drawn images of each class are scored on."""
    protocol: Protocol

    @property
    def key(self) -> str:
        """All that determines the scores of a model, but for its weights."""
        images = f"{self.shots} shots" if self.shots != "full" else f"{self.protocol.train_images} images"
        drawn = self.task.digest
        return f"{self.target.name}, {images}, seed {self.seed}, {self.per_class} a class, {drawn}"

    @property
    def task(self) -> Task:
        return sample(self.target, self.shots, self.seed, self.protocol)


@dataclass(frozen=True, kw_only=True)
class SampleScores:
    """The scores of one model on a sample, as a line of scores.jsonl holds them."""

    sample: str
    """Its key."""
    target: str
    shots: Shots
    seed: int
    per_class: int
    images: int
    """That were scored on."""
    model: str
    weights: str
    """The digest of its file."""
    scores: dict[str, Number]
    undefined: dict[str, str]
    """Scores that do not exist for it, and why."""
    seconds: dict[str, float]
    """Of every score alone, without compiling."""
    compiling: float
    device: str


def samples(
    protocol: Protocol, targets: Sequence[Target], per_class: int, shots: Sequence[Shots] | None = None
) -> list[Sampled]:
    """The samples that models are fine-tuned on: everything once, then with other seeds.

    Args:
      shots: some of the protocol's; all by default.
    """
    return [
        Sampled(target, of, seed, per_class, protocol)
        for seed in protocol.seeds
        for of in protocol.shots
        if (shots is None or of in shots) and (of != "full" or seed == protocol.seeds[0])
        for target in targets
    ]


def scored(
    planned: Sequence[Sampled],
    zoo: Path,
    scores: Sequence[str],
    file: Path,
    jobs: int = 1,
    progress: Count | None = None,
) -> list[SampleScores]:
    """Score the models on the samples that the file does not have; the rows of all, one a model and sample.

    Args:
      scores: names of `scores.table.SCORES`.
      file: of JSON lines, to which every sample's are added when all models are scored on it.
      jobs: processes that score models at once.
      progress: called with (samples that are done, all).
    """
    keys = {sampled.key: sampled for sampled in planned}
    rows = [
        row
        for row in schema.read_rows(file, SampleScores)
        if row.sample in keys and set(scores) <= {*row.scores, *row.undefined}
    ]
    models = {target: candidates(zoo, target) for target in {sampled.target.name for sampled in planned}}
    weights = {path.stem: digest_of(path) for paths in models.values() for path in paths}
    of_now = {(row.sample, row.model) for row in rows if row.weights == weights.get(row.model)}
    of_others = {(row.sample, row.model) for row in rows if row.model in weights} - of_now
    done = {sample for sample, _ in of_now} - {sample for sample, _ in of_others}
    for number, (key, sampled) in enumerate(keys.items(), 1):
        if key not in done:
            found = _rows(sampled, models[sampled.target.name], scores, jobs)
            schema.append(file, found)
            rows += found
        if progress is not None:
            progress(number, len(keys))
    return rows


def _rows(sampled: Sampled, models: Sequence[Path], scores: Sequence[str], jobs: int) -> list[SampleScores]:
    ranking = rank(models, sampled.task, scores, per_class=sampled.per_class, seed=sampled.seed, resamples=0, jobs=jobs)
    weights = {path.stem: path for path in models}
    return [
        SampleScores(
            sample=sampled.key,
            target=sampled.target.name,
            shots=sampled.shots,
            seed=sampled.seed,
            per_class=sampled.per_class,
            images=ranking.about.images,
            model=one.model,
            weights=digest_of(weights[one.model]),
            scores=dict(one.scores),
            undefined=one.undefined,
            seconds={name: round(_cost(name, one.seconds), 4) for name in one.scores},
            compiling=round(one.seconds["compile"], 4),
            device=jax.devices()[0].device_kind,
        )
        for one in ranking.measured
    ]


def _cost(name: str, seconds: Mapping[str, float]) -> float:
    """Seconds of a score alone: its own, and those of the inputs that it takes, without compiling."""
    parts = [part for part in ("kernel", "tangent") if part in SCORES[name].takes and part in seconds]
    return sum(seconds[part] for part in ("pass", *parts, name))
