"""Which prediction to take: the cheapest that, by what was measured, will hold the error asked for."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from linft.base import Model, Trajectory
from linft.errors import LinftError
from linft.predict.dual import dual
from linft.predict.feature_dual import feature_dual
from linft.predict.relinearized import relinearized
from linft.recipe import Recipe
from linft.task import Task

Head = Literal["fresh", "probe"]

AFTER = 0.25
"""Share of the steps that are real before the network is linearized again."""
MEASURED = Path(__file__).with_name("measured.json")
"""Costs and errors, written by experiments/prediction_kinds.py."""
FALLS = (0.25, 0.6, 1.0)
"""Upper bounds of how far the trace kernel predicts that the loss falls, of its first value."""


@dataclass(frozen=True)
class Kind:
    """One way to predict a run."""

    label: str
    run: Callable[..., Trajectory]
    """(model, task, recipe, record_every, **kernel) -> the predicted trajectory."""
    cost: float | None
    """Measured seconds of one prediction, its kernel included, over the real run's, median; None: not measured."""
    errors: Mapping[Head, Sequence[float | None]]
    """Measured error of the train-loss curve, upper quartile, for each of FALLS; None where nothing was measured."""
    runs: Mapping[Head, Sequence[int]]
    """Of how many runs."""


def _dual(outputs: str) -> Callable[..., Trajectory]:
    def run(model: Model, task: Task, recipe: Recipe, record_every: int | None = None, **kernel: Any) -> Trajectory:
        return dual(model, task, record_every=record_every, outputs=outputs, **kernel)(recipe)

    return run


def _feature_dual(outputs: str) -> Callable[..., Trajectory]:
    def run(model: Model, task: Task, recipe: Recipe, record_every: int | None = None, **kernel: Any) -> Trajectory:
        return feature_dual(model, task, record_every=record_every, outputs=outputs, **kernel)(recipe)

    return run


def _relinearized(
    model: Model, task: Task, recipe: Recipe, record_every: int | None = None, **kernel: Any
) -> Trajectory:
    after = first_steps(recipe, len(task.y_train))
    kernel.pop("groups", None)  # those of the recipe, always
    return relinearized(model, task, after=after, record_every=record_every, **kernel)(recipe)


def first_steps(recipe: Recipe, n: int) -> int:
    """Real steps before the network is linearized again."""
    return math.floor(AFTER * recipe.num_steps(n))


def _kinds() -> dict[str, Kind]:
    ways: dict[str, tuple[str, Callable[..., Trajectory]]] = {
        "trace": ("kernel of the network, its trace over logits", _dual("trace")),
        "dual": ("kernel of the network", _dual("full")),
        "features-trace": ("kernel of the features, its trace", _feature_dual("trace")),
        "features-low-rank": ("kernel of the features, few directions", _feature_dual("low-rank")),
        "relinearize": ("linearized again after a quarter of the steps", _relinearized),
        "features": ("kernel of the features", _feature_dual("full")),
    }
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    kinds = {name: Kind(label, run, **measured[name]) for name, (label, run) in ways.items()}
    return dict(sorted(kinds.items(), key=lambda item: math.inf if item[1].cost is None else item[1].cost))


KINDS = _kinds()
"""Every kind of prediction, the cheapest first."""

FIRST = "trace"
"""The kind whose predicted fall of the loss is looked up."""


@dataclass(frozen=True)
class Choice:
    """A kind, and why."""

    kind: str
    expected: float | None
    """Upper quartile of the measured errors of the train-loss curve; None where nothing was measured."""
    holds: bool
    """Whether that is within what was asked for."""
    reason: str


def fall(predicted: Trajectory) -> float | None:
    """By how much of its first value the train loss falls; None where it rises above it, or diverges."""
    loss = predicted.train_loss
    if predicted.diverged_at is not None or loss.max() > loss[0]:
        return None
    return float(1 - loss[-1] / loss[0]) if loss[0] > 0 else 0.0


def choose(error: float, fall: float | None, head: Head) -> Choice:
    """The cheapest kind whose measured error, at such a head and such a fall of the loss, is within `error`.

    Errors are the upper quartiles in `KINDS`, of the runs of experiments/prediction_kinds.py whose predicted
    loss never rises above its first value. Where no kind holds it, the most accurate is taken, and the choice
    says so.

    Args:
      error: mean |predicted − real| train loss over the mean real one, that is asked for.
      fall: of the loss, as the trace kernel predicts it.
      head: fresh (random or zero) or probe.

    Raises:
      LinftError: the error asked for is not above 0.

    Example:
      >>> choose(0.05, 0.2, "fresh").kind in KINDS
      True
    """
    if not error > 0:
        raise LinftError(f"error is {error}; give a number above 0, such as 0.05")
    place = len(FALLS) - 1 if fall is None else next(i for i, upper in enumerate(FALLS) if fall <= upper)
    known = {name: value for name, kind in KINDS.items() if (value := kind.errors[head][place]) is not None}
    number = next(iter(KINDS.values())).runs[head][place]
    where = f"upper quartile of {number} measured runs with a {head} head and a loss falling by {_between(place)}"
    if not known:
        return Choice(FIRST, None, False, f"nothing was measured with a {head} head and such a fall of the loss")
    best = min(known, key=lambda name: known[name])
    if fall is None:
        return Choice(best, None, False, "the predicted loss rises; no prediction is expected to hold for such a rate")
    for name, value in known.items():
        if value <= error:
            return Choice(name, value, True, f"expected to be off by {value:.1%} ({where})")
    reason = f"no kind is expected to hold {error:.1%}; this one comes closest, with {known[best]:.1%} ({where})"
    return Choice(best, known[best], False, reason)


def _between(place: int) -> str:
    lower = f"{FALLS[place - 1]:.0%} to " if place else "less than "
    return f"{lower}{FALLS[place]:.0%}"
