"""The scores of many models on one sample: in several processes, kept line by line as they come."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
from jaxtyping import Int
from threadpoolctl import threadpool_limits

from linft.core.base import Model
from linft.core.errors import LinftError
from linft.core.task import Task
from linft.core.trees import digest
from linft.runtime import json_lines, schema
from linft.runtime.processes import unordered
from linft.scores import compiling
from linft.scores.alignment import alignment_error
from linft.scores.arrays import Undefined
from linft.scores.gather import ScoreGradients, gather
from linft.scores.score_inputs import ScoreInputs
from linft.scores.small_network import SmallNetwork, small_network
from linft.scores.table import SCORES, SMALL, Score, needs
from linft.zoo.load import load_model, local, shipped, weights_of

LINES = "models.jsonl"
ModelSource = str | Path | Model
"""A model, or where `load_model` finds it."""


@dataclass(frozen=True)
class ScoredModel:
    """The scores of one model."""

    model: str
    architecture: str
    data: str
    """What it was pretrained on."""
    scores: dict[str, float]
    halves: dict[str, list[float | None]]
    """Every score on halves of the sample, the same for all models."""
    undefined: dict[str, str]
    """Scores that do not exist for this model, and why."""
    seconds: dict[str, float]
    """load; compile; pass, kernel and tangent, without compiling; and every score's own."""
    lgc_error: float | None = None
    """Standard error of lgc over random projections, where the kernel was projected."""


@dataclass(frozen=True, kw_only=True)
class KeptModel:
    """A line of models.jsonl."""

    key: str
    """The model's name and weights, and the sample."""
    measured: ScoredModel


@dataclass(frozen=True)
class Sample:
    """The images that models are scored on, and how."""

    task: Task
    scores: tuple[str, ...]
    halves: Int[np.ndarray, "r k"]
    """Images of every half."""
    gradients: ScoreGradients
    seed: int

    @property
    def digest(self) -> str:
        """Tells this sample and what is done with it from others."""
        return digest((self.task.x_train, self.task.y_train, self.halves)) + f" {self.gradients} {self.seed}"


def scored(
    models: Mapping[str, ModelSource], sample: Sample, jobs: int, output: Path | None
) -> Iterator[tuple[str, ScoredModel | str]]:
    """Name and scores of every model as they come, or why it cannot be scored; those on disk first.

    Args:
      jobs: processes.
      output: a directory where every line of `models.jsonl` is a model; those that are there already,
        of the same weights, sample and scores, are not scored again.
    """
    kept = {} if output is None else _kept(output / LINES)
    of_sample = sample.digest
    keys = {name: json.dumps([name, _identity(model), of_sample]) for name, model in models.items()}
    missing = dict(models)
    for name, key in keys.items():
        one = kept.get(key)
        if one is not None and set(sample.scores) <= {*one.scores, *one.undefined}:
            del missing[name]
            yield name, one
        elif reason := _why_not_there(models[name]):
            del missing[name]
            yield name, reason
    if not missing:
        return
    small = small_network(sample.task, sample.seed) if SMALL & needs(sample.scores) else None
    for name, one in unordered(partial(_measure, sample=sample, small=small), missing.items(), jobs):
        if isinstance(one, ScoredModel) and output is not None:
            schema.append(output / LINES, [KeptModel(key=keys[name], measured=one)])
        yield name, one


def _measure(
    name: str, model: ModelSource, sample: Sample, small: SmallNetwork | None
) -> tuple[str, ScoredModel | str]:
    """The name, and the scores of the model or why it cannot be scored."""
    seconds: dict[str, float] = {}
    try:
        with compiling.apart(seconds, "load"):
            loaded = model if isinstance(model, Model) else load_model(model)
        wanted = needs(sample.scores)
        inputs = gather(loaded, sample.task, wanted, small=small, gradients=sample.gradients, seed=sample.seed)
    except LinftError as error:
        return name, str(error)
    seconds["compile"] += inputs.seconds["compile"]
    seconds |= {part: spent for part, spent in inputs.seconds.items() if part != "compile"}
    inputs = replace(inputs, model=name)
    with threadpool_limits(1):  # the matrices are small
        scores, undefined, on_halves = _scores(inputs, sample, seconds)
    error = None
    if inputs.kernel_error is not None and "lgc" in scores:
        error = alignment_error(inputs.given("kernel"), inputs.kernel_error, inputs.labels)
    architecture = (loaded.architecture or {}).get("name", "")
    data = str(loaded.source.get("data", ""))
    return name, ScoredModel(name, str(architecture), data, scores, on_halves, undefined, seconds, error)


def _scores(
    inputs: ScoreInputs, sample: Sample, seconds: dict[str, float]
) -> tuple[dict[str, float], dict[str, str], dict[str, list[float | None]]]:
    """Scores, why others do not exist, and scores on halves; what each took is added to `seconds`."""
    scores: dict[str, float] = {}
    undefined: dict[str, str] = {}
    for name in sample.scores:
        try:
            with compiling.apart(seconds, name):
                scores[name] = SCORES[name](inputs)
        except Undefined as reason:
            undefined[name] = str(reason)
    on_halves: dict[str, list[float | None]] = {name: [] for name in scores if SCORES[name].resampled}
    with compiling.apart(seconds, "halves"):
        for indices in sample.halves:
            some = inputs.take(indices)
            for name, values in on_halves.items():
                values.append(_or_none(SCORES[name], some))
    return scores, undefined, on_halves


def _or_none(score: Score, inputs: ScoreInputs) -> float | None:
    try:
        return score(inputs)
    except Undefined:
        return None


def _identity(model: ModelSource) -> str:
    """What tells whether a model is the one that was scored before."""
    if isinstance(model, Model):
        return model.digest
    found = next((found for source in (shipped, local) if (found := source(str(model))) is not None), None)
    try:
        return str(model) if found is None else sha256(found.path.read_bytes()).hexdigest()[:16]
    except OSError:  # which is told when it is loaded
        return str(model)


def _why_not_there(model: ModelSource) -> str | None:
    """Why a name leads to no file, which is told before anything is trained; the hub is asked as it is loaded from."""
    if isinstance(model, Model) or str(model).startswith("hf:"):
        return None
    try:
        weights_of(str(model))
    except LinftError as error:
        return str(error)
    return None


def _kept(file: Path) -> dict[str, ScoredModel]:
    """What the lines of a file hold, by key; those of another version are passed over."""
    kept = {}
    for row in json_lines.read(file):
        with suppress(LinftError):
            line = schema.typed(row, KeptModel, file)
            kept[line.key] = line.measured
    return kept
