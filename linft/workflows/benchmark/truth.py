"""Real fine-tuning of every model of a zoo on every target: the truth that scores are held against."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.runtime import schema
from linft.runtime.processes import unordered
from linft.runtime.progress import Count
from linft.runtime.schema import Number
from linft.training.finetune import finetune
from linft.workflows.benchmark.protocol import Protocol, Shots, Target, sample
from linft.workflows.benchmark.zoos import candidates, digest_of
from linft.zoo import directory
from linft.zoo.load import load_model


@dataclass(frozen=True)
class Case:
    """One run."""

    target: Target
    model: Path
    shots: Shots
    rate: float
    seed: int
    protocol: Protocol

    @property
    def key(self) -> str:
        """All that determines the run, so that a changed protocol, weights or images make other runs."""
        recipe, of = self.recipe, self.protocol
        images = f"{self.shots} shots" if self.shots != "full" else f"{of.train_images} images"
        how = f"{recipe.steps}x{recipe.batch_size}, rate {self.rate:g}, seed {self.seed}, {of.test_images} tested"
        drawn = sample(self.target, self.shots, self.seed, of).digest
        return f"{self.target.name}, {self.model.stem}, {images}, {how}, {digest_of(self.model)}, {drawn}"

    @property
    def recipe(self) -> Recipe:
        return self.protocol.recipe(self.shots, self.rate, self.seed)


def cases(protocol: Protocol, targets: Sequence[Target], zoo: Path) -> list[Case]:
    """All runs, in an order in which the first ones are worth most: everything once, then at other rates and seeds.

    Within these, one architecture after another, the most frequent first: it is a zoo of its own, complete early.
    """
    models = {target: candidates(zoo, target.name) for target in targets}
    for target, found in models.items():
        if len(found) < 2:
            raise LinftError(f"{zoo} has {len(found)} models that did not see {target.name}; a choice needs two")
    networks = {path: _network(path) for path in sorted(set().union(*models.values()))}
    most_frequent_first = [network for network, _ in Counter(networks.values()).most_common()]
    return [
        Case(target, model, shots, rate, seed, protocol)
        for seed in protocol.seeds
        for rate in protocol.rates
        for network in most_frequent_first
        for shots in protocol.shots
        if shots != "full" or (rate, seed) == (protocol.rates[0], protocol.seeds[0])
        for target in targets
        for model in models[target]
        if networks[model] == network
    ]


def _network(path: Path) -> str:
    return json.dumps(directory.opened(path)[1]["architecture"])


@dataclass(frozen=True, kw_only=True)
class FinishedCase:
    """What came of a run, as a line of truth.jsonl holds it."""

    key: str
    """Of the case."""
    target: str
    shots: Shots
    rate: float
    seed: int
    model: str
    train_images: int
    test_images: int
    steps: int
    batch_size: int
    test_accuracy: float
    """At the last recorded step, as all of these."""
    test_loss: Number
    train_accuracy: float
    train_loss: Number
    diverged_at: int | None
    seconds: float
    device: str


def run(case: Case) -> FinishedCase:
    """Fine-tune one model and measure it at the end, on test images that nothing was chosen on."""
    task = sample(case.target, case.shots, case.seed, case.protocol)
    model = load_model(case.model).with_head(task.num_classes, jax.random.key(case.seed))
    steps = case.recipe.num_steps(len(task.y_train))
    result = finetune(model, task, record_every=max(steps, 1))(case.recipe)
    return FinishedCase(
        key=case.key,
        target=case.target.name,
        shots=case.shots,
        rate=case.rate,
        seed=case.seed,
        model=case.model.stem,
        train_images=len(task.y_train),
        test_images=len(task.y_test),
        steps=steps,
        batch_size=case.recipe.batch_size_for(len(task.y_train)),
        test_accuracy=round(float(result.test_accuracy[-1]), 6),
        test_loss=round(float(result.test_loss[-1]), 6),
        train_accuracy=round(float(result.train_accuracy[-1]), 6),
        train_loss=round(float(result.train_loss[-1]), 6),
        diverged_at=result.diverged_at,
        seconds=round(result.seconds, 3),
        device=jax.devices()[0].device_kind,
    )


def truth(
    planned: Sequence[Case],
    file: Path,
    jobs: int = 1,
    progress: Count | None = None,
) -> list[FinishedCase]:
    """Do the runs that the file does not have, adding each to it as it ends; the rows of all that were planned.

    Args:
      jobs: processes that run at once; this one writes.
      progress: called with (runs that are done, all).
    """
    done = {row.key: row for row in schema.read_rows(file, FinishedCase)}
    missing = [case for case in planned if case.key not in done]
    for row in unordered(run, ((case,) for case in missing), jobs):
        done[row.key] = row
        schema.append(file, [row])
        if progress is not None:
            progress(sum(case.key in done for case in planned), len(planned))
    return [done[case.key] for case in planned]
