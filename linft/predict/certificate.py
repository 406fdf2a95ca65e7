"""How far a prediction holds, told by itself before anything is trained.

Two things tell it. By how much the last anchor changed the prediction: the error left is mostly less than what was
mended last. And the network at the predicted weights: where the prediction ends at weights at which the network's loss is
another one, it is not to be believed. Of the second the early steps are to be looked at: once a prediction has left
the way, the network's loss at its weights grows without any measure, while a real run turns back.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from linft.core.base import Trajectory

LOOKS = 6
"""Steps at which the network is looked at."""
OF_CHANGE = 1.0
"""The error over the change by the last anchor, in nine of ten runs of experiments/certificates.py at most."""
OF_LOOKS = 1.0
"""The error over the distance of the network's losses from the predicted ones, likewise."""


@dataclass(frozen=True)
class Certificate:
    """How far a predicted train-loss curve is to be trusted."""

    steps: Int[np.ndarray, "t"]
    predicted: Float[np.ndarray, "t"]
    """The train loss at every step."""
    before: Float[np.ndarray, "t"] | None
    """That with one anchor less, inf where it diverged; None with one anchor."""
    looks: Mapping[int, float]
    """The network's train loss at the weights predicted at some steps."""
    diverged: bool

    @property
    def error(self) -> float:
        """The error of the curve, mean |difference| / mean loss, that nine of ten predictions keep."""
        return self._within(len(self.steps))

    def horizon(self, error: float) -> int:
        """The last step up to which the curve is expected to hold an error."""
        held = [i for i in range(1, len(self.steps)) if self._within(i + 1) <= error]
        return int(self.steps[held[-1]]) if held else 0

    def _within(self, count: int) -> float:
        """The error that is expected of the first so many steps."""
        if self.diverged and count == len(self.steps):
            return float("inf")
        predicted = self.predicted[:count]
        if self.before is not None:
            apart = np.abs(predicted - self.before[:count])
            return OF_CHANGE * float(apart.mean() / predicted.mean())
        looks = {step: loss for step, loss in self.looks.items() if step < count}
        at = np.array([0, *looks])
        apart = np.abs(np.array([0, *looks.values()]) - np.array([0, *(predicted[step] for step in looks)]))
        return OF_LOOKS * float(np.interp(np.arange(count), at, apart).mean() / predicted.mean())


def steps_to_look_at(predicted: Trajectory) -> list[int]:
    """Some steps of a prediction, equally far from one another, the last included."""
    last = len(predicted.steps) - 1
    return sorted({round(last * share / LOOKS) for share in range(1, LOOKS + 1)} - {0})


def certified(predicted: Trajectory, looks: Mapping[int, float], before: Trajectory | None) -> Certificate:
    """The certificate of a prediction measured at every step.

    Args:
      looks: the network's train loss at the predicted weights, by step.
      before: the prediction with one anchor less.
    """
    earlier = None
    if before is not None:
        count = len(predicted.steps)
        earlier = np.pad(before.train_loss[:count], (0, max(0, count - len(before.steps))), constant_values=np.inf)
    return Certificate(predicted.steps, predicted.train_loss, earlier, dict(looks), predicted.diverged_at is not None)
