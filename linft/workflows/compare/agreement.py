"""How well one trajectory predicts another: pure functions on curves."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from linft.core.base import Trajectory

LEVELS = (0.75, 0.5, 0.25)  # of the first train loss


@dataclass(frozen=True, kw_only=True)
class Level:
    """When two runs come down to a train loss."""

    level: float
    """Of the real run's first loss."""
    loss: float
    steps: float | None
    reference_steps: float | None
    relative_error: float | None
    """Above 0 where the prediction is later."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The distances between a predicted and a real run."""

    train_loss_error: float | None
    """Mean |difference| over the mean real loss."""
    steps_to_loss: list[Level]
    test_accuracy_difference: float | None
    """At the end."""
    diverged_at: int | None
    reference_diverged_at: int | None


def loss_curve_error(predicted: Trajectory, real: Trajectory) -> float | None:
    """Mean |L_predicted − L_real| over the mean L_real, on the train loss at the steps both have.

    None where they share no step but the first.

    Example:
      >>> import numpy as np
      >>> curve = lambda loss: Trajectory(np.arange(3), *[np.array(loss)] * 4, distance={}, norm={}, seconds=0.0)
      >>> loss_curve_error(curve([2.0, 1.5, 1.0]), curve([2.0, 1.0, 1.0]))
      0.125
    """
    n = min(len(predicted.steps), len(real.steps))
    if n < 2:
        return None
    gap = np.abs(predicted.train_loss[:n] - real.train_loss[:n])
    return float(gap.mean() / real.train_loss[:n].mean())


def steps_to_loss(steps: Int[np.ndarray, "t"], loss: Float[np.ndarray, "t"], level: float) -> float | None:
    """First step at which the loss is at or below a level, between recorded steps by a straight line; None if never."""
    below = np.flatnonzero(loss <= level)
    if len(below) == 0:
        return None
    i = int(below[0])
    if i == 0:
        return float(steps[0])
    share = (loss[i - 1] - level) / (loss[i - 1] - loss[i])
    return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))


def agreement(predicted: Trajectory, real: Trajectory) -> Agreement:
    """The distances between a predicted and a real run."""
    levels = []
    for level in LEVELS:
        loss = level * float(real.train_loss[0])
        theirs, ours = (steps_to_loss(t.steps, t.train_loss, loss) for t in (real, predicted))
        error = (ours - theirs) / theirs if ours is not None and theirs else None
        levels.append(Level(level=level, loss=loss, steps=ours, reference_steps=theirs, relative_error=error))
    return Agreement(
        train_loss_error=loss_curve_error(predicted, real),
        steps_to_loss=levels,
        test_accuracy_difference=float(predicted.test_accuracy[-1] - real.test_accuracy[-1]),
        diverged_at=predicted.diverged_at,
        reference_diverged_at=real.diverged_at,
    )
