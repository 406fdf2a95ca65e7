"""How far a prediction holds, told by itself before anything is trained.

Two things tell it, and the worse of them counts. By how much the last anchor changed the prediction: the error left is
mostly less than what was mended last. And the network at the predicted weights: where its loss is another one than the
predicted, the prediction is not to be believed. Once a prediction has left the way that loss grows without any
measure, while a real run turns back; so it counts for no more than the prediction itself.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from linft.core.base import Certificate, Trajectory

LOOKS = 6
"""Steps at which the network is looked at."""
LEFT = 0.3
"""Share of an error that an anchor leaves, at least: that it changed next to nothing may be chance."""
OF_CHANGE = 1.5
"""The error that is told, over the change by the last anchor: a quarter more than what nine of ten of the runs kept on
which it was made (experiments/certificates.py)."""
OF_LOOKS = 1.0
"""The error over the distance of the network's losses from the predicted ones, with one anchor, likewise."""


@dataclass(frozen=True)
class Evidence:
    """What tells how far a predicted train-loss curve is to be trusted."""

    curves: Float[np.ndarray, "k t"]
    """The train loss predicted with one anchor, with two and so on, the last of them the prediction; inf where one
    diverged."""
    looks: Mapping[int, float]
    """The network's train loss at the weights predicted at some steps."""
    diverged: bool
    least: int = 1
    """Anchors without which nothing is told."""

    @property
    def predicted(self) -> Float[np.ndarray, "t"]:
        """The prediction."""
        return self.curves[-1]

    def certificate(self, within: float) -> Certificate:
        """What follows, and up to where an error is expected to be kept."""
        errors = [self.error(count) for count in range(2, len(self.predicted) + 1)]
        held = [i for i, error in enumerate(errors, 1) if error <= within]
        horizon = held[-1] if held else 0
        whole = errors[-1] if errors else 0.0
        return Certificate(whole if math.isfinite(whole) else None, within, horizon, float(self.predicted[horizon]))

    def error(self, count: int) -> float:
        """Of the first so many points, mean |difference| / mean loss that nine of ten predictions keep."""
        if len(self.curves) < self.least or (self.diverged and count == len(self.predicted)):
            return float("inf")
        curves = self.curves[:, :count]
        last, mean = curves[-1], curves[-1].mean()
        at = np.array([0, *(step for step in self.looks if step < count)])
        there = np.array([last[0], *(self.looks[step] for step in at[1:])])
        apart = np.interp(np.arange(count), at, np.minimum(np.abs(there - last[at]), last[at])).mean()
        changes = np.abs(np.diff(curves, axis=0)).mean(1) * LEFT ** np.arange(len(curves) - 1)[::-1]
        return float(max(OF_LOOKS * apart, *(OF_CHANGE * changes), 0.0) / mean)


def steps_to_look_at(predicted: Trajectory) -> list[int]:
    """Some steps of a prediction, equally far from one another, the last included."""
    last = len(predicted.steps) - 1
    return sorted({round(last * share / LOOKS) for share in range(1, LOOKS + 1)} - {0})


def evidence(
    curves: Sequence[Float[np.ndarray, "_"]], looks: Mapping[int, float], diverged: bool, optimizer: str = "sgd"
) -> Evidence:
    """Of a prediction.

    Adam moves weights at full pace however small their gradient is. Where there is none at the start, as of the half of
    LoRA's adapters, the Jacobian there does not move them, and the network at the predicted weights looks right; so
    that of Adam the Jacobian at the start alone tells nothing.

    Args:
      curves: the train loss at every step predicted with one anchor, with two and so on, the last of them the
        prediction; cut where one diverged.
      looks: the network's train loss at the predicted weights, by step.
      diverged: whether the prediction did.
    """
    count = len(curves[-1])
    whole = [np.pad(c[:count], (0, max(0, count - len(c))), constant_values=np.inf) for c in curves]
    return Evidence(np.stack(whole), dict(looks), diverged, 2 if optimizer == "adam" else 1)
