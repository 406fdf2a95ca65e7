"""A trajectory as JSON has it, and back."""

from typing import Any

import numpy as np

from linft.core.base import Trajectory

CURVES = ("steps", "train_loss", "test_loss", "train_accuracy", "test_accuracy")
LENGTHS = ("distance", "norm")


def trajectory_as_json(run: Trajectory) -> dict[str, Any]:
    """A trajectory as files of results hold it, without its models."""
    return {
        **{name: getattr(run, name).tolist() for name in CURVES},
        **{name: {g: d.tolist() for g, d in getattr(run, name).items()} for name in LENGTHS},
        "seconds": run.seconds,
        "diverged_at": run.diverged_at,
        "note": run.note,
    }


def trajectory_from_json(found: dict[str, Any]) -> Trajectory:
    """The trajectory that a file of results holds."""
    curves = {name: np.array(found[name]) for name in CURVES}
    lengths = {name: {g: np.array(d) for g, d in found[name].items()} for name in LENGTHS}
    rest = {name: found[name] for name in ("seconds", "diverged_at", "note")}
    return Trajectory(**curves, **lengths, **rest)
