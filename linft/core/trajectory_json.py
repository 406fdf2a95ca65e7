"""A trajectory as JSON has it, and back."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from linft.core.base import Certificate, Curves, RunningCurves, Trajectory

CURVES = ("steps", "train_loss", "test_loss", "train_accuracy", "test_accuracy")


@dataclass(frozen=True, kw_only=True)
class SavedCurves:
    """`Curves` as files of results hold them; a number that is not finite is None."""

    train_loss: list[float | None]
    test_loss: list[float | None]
    train_accuracy: list[float | None]
    test_accuracy: list[float | None]


@dataclass(frozen=True, kw_only=True)
class SavedRunningCurves(SavedCurves):
    """`RunningCurves` likewise."""

    steps: list[int]


@dataclass(frozen=True, kw_only=True)
class SavedTrajectory:
    """A trajectory as files of results hold it, without its models; a number that is not finite is None."""

    steps: list[int]
    train_loss: list[float | None]
    test_loss: list[float | None]
    train_accuracy: list[float | None]
    test_accuracy: list[float | None]
    distance: dict[str, list[float | None]]
    """‖w_g − w0_g‖ of every group."""
    norm: dict[str, list[float | None]]
    """‖w_g‖ of every group."""
    seconds: float
    diverged_at: int | None
    note: str
    certificate: Certificate | None = None
    reestimated: SavedCurves | None = None
    """With re-estimated statistics, of a real run with batch norm in training mode."""
    running: SavedRunningCurves | None = None
    """With the running averages of batch norm's statistics in training mode, where the curves are not with those."""


def saved(run: Trajectory) -> SavedTrajectory:
    """A trajectory as files of results hold it."""
    return SavedTrajectory(
        steps=run.steps.tolist(),
        train_loss=numbers(run.train_loss),
        test_loss=numbers(run.test_loss),
        train_accuracy=numbers(run.train_accuracy),
        test_accuracy=numbers(run.test_accuracy),
        distance={group: numbers(values) for group, values in run.distance.items()},
        norm={group: numbers(values) for group, values in run.norm.items()},
        seconds=run.seconds,
        diverged_at=None if run.diverged_at is None else int(run.diverged_at),
        note=run.note,
        certificate=run.certificate,
        reestimated=run.reestimated and SavedCurves(**_lists(run.reestimated)),
        running=run.running and SavedRunningCurves(steps=run.running.steps.tolist(), **_lists(run.running)),
    )


def restored(found: SavedTrajectory) -> Trajectory:
    """The trajectory that a file of results holds."""
    own, running = found.reestimated, found.running
    return Trajectory(
        steps=np.array(found.steps, int),
        train_loss=np.array(found.train_loss, float),
        test_loss=np.array(found.test_loss, float),
        train_accuracy=np.array(found.train_accuracy, float),
        test_accuracy=np.array(found.test_accuracy, float),
        distance={group: np.array(values, float) for group, values in found.distance.items()},
        norm={group: np.array(values, float) for group, values in found.norm.items()},
        seconds=found.seconds,
        diverged_at=found.diverged_at,
        note=found.note,
        certificate=found.certificate,
        reestimated=own and Curves(**_arrays(own)),
        running=running and RunningCurves(steps=np.array(running.steps, int), **_arrays(running)),
    )


def _lists(curves: Curves | RunningCurves) -> dict[str, list[float | None]]:
    return {name: numbers(getattr(curves, name)) for name in Curves._fields}


def _arrays(curves: SavedCurves) -> dict[str, Float[np.ndarray, "t"]]:
    return {name: np.array(getattr(curves, name), float) for name in Curves._fields}


def numbers(values: Float[np.ndarray, "n"]) -> list[float | None]:
    """An array as a list; None where it is not finite."""
    return [value if math.isfinite(value) else None for value in values.tolist()]
