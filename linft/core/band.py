"""Runs of one recipe by several seeds: the band that they leave open, and where a prediction lies in it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from linft.core.base import Curves, Trajectory
from linft.core.errors import LinftError
from linft.core.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Range:
    """A curve of several runs, at every recorded step."""

    lowest: list[float]
    mean: list[float]
    highest: list[float]


@dataclass(frozen=True, kw_only=True)
class Band:
    """Curves of runs that differ in their seed alone."""

    seeds: list[int]
    """Of the runs that did not diverge."""
    diverged: list[int]
    """Of the others, which have no part in what follows."""
    steps: list[int]
    train_loss: Range
    test_loss: Range
    train_accuracy: Range
    test_accuracy: Range


@dataclass(frozen=True, kw_only=True)
class BandAgreement:
    """How the mean of predicted runs lies to the band of the real ones, in train loss."""

    inside: float
    """Share of the recorded steps, the first apart, at which it is between the lowest and the highest."""
    error_over_width: float | None
    """Mean distance from the mean of the real ones, over the mean width of the band; None where that is 0."""


def by_seed(recipe: Recipe, count: int, n: int, draws: bool = False) -> dict[int, Recipe]:
    """The recipe by its own seed, and by those that follow, for n training images.

    Args:
      draws: whether the seed counts for more than that: dropout, or a new head.

    Raises:
      LinftError: fewer than one seed, or several of a recipe to which they make no difference.

    Example:
      >>> list(by_seed(Recipe(seed=3), 2, n=100))
      [3, 4]
    """
    if count < 1:
        raise LinftError(f"seeds is {count}; it must be 1 or more")
    parts = recipe.batch_norm == "train" and recipe.bn_batch_size is not None  # whose statistics depend on the order
    ordered = recipe.shuffle and (parts or recipe.batch_size_for(n) < n)
    if count > 1 and not (ordered or draws or recipe.augmentation != "none" or recipe.mixup > 0):
        raise LinftError(
            "seeds make no difference to a full batch, or without shuffle; use a smaller batch, or one seed"
        )
    return {seed: recipe.replace(seed=seed) for seed in range(recipe.seed, recipe.seed + count)}


def with_seed(run: str, seed: int) -> str:
    """What a run is called that is by another seed than the recipe's own."""
    return f"{run}-seed-{seed}"


def band(runs: Mapping[int, Trajectory]) -> Band | None:
    """The band of some runs, by seed; None where all diverged.

    Example:
      >>> curve = lambda loss: Trajectory(np.arange(2), *[np.array(loss)] * 4, distance={}, norm={}, seconds=0.0)
      >>> band({0: curve([2.0, 1.0]), 1: curve([2.0, 0.5])}).train_loss
      Range(lowest=[2.0, 0.5], mean=[2.0, 0.75], highest=[2.0, 1.0])
    """
    whole = {seed: run for seed, run in runs.items() if run.diverged_at is None}
    if not whole:
        return None
    ranges = {}
    for name in Curves._fields:
        values = np.stack([getattr(run, name) for run in whole.values()])
        ranges[name] = Range(
            lowest=values.min(0).tolist(), mean=values.mean(0).tolist(), highest=values.max(0).tolist()
        )
    return Band(
        seeds=list(whole),
        diverged=[seed for seed in runs if seed not in whole],
        steps=next(iter(whole.values())).steps.tolist(),
        **ranges,
    )


def held_against(predicted: Band, real: Band) -> BandAgreement | None:
    """Where predicted runs lie in the band of real ones, at the same steps; None where there is but the first.

    Those that are right for every seed have their mean inside throughout, and no error.
    """
    if len(real.steps) < 2:
        return None
    low, mean, high = (np.array(getattr(real.train_loss, name)[1:]) for name in ("lowest", "mean", "highest"))
    ours = np.array(predicted.train_loss.mean[1:])
    width = (high - low).mean()
    error = float(np.abs(ours - mean).mean() / width) if width > 0 else None
    return BandAgreement(inside=float(((low <= ours) & (ours <= high)).mean()), error_over_width=error)
