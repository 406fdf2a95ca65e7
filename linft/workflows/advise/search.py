"""Recipes compared in function space by cross-validation: one sweep a fold, on training images only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import t

from linft import predict
from linft.core.base import Run, Tangent
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.runtime.progress import Progress
from linft.scores.predicted_accuracy import part
from linft.workflows.sweep.grid import GridBlock, Point, Values
from linft.workflows.sweep.result import Row, key
from linft.workflows.sweep.sweep import sweep

LEVEL = 0.95


def folds(
    labels: Int[np.ndarray, "n"], count: int, seed: int = 0
) -> list[tuple[Int[np.ndarray, "k"], Int[np.ndarray, "m"]]]:
    """Training and held-out images of every fold, all of one size, so that one program serves them all.

    Images of a class, shuffled, are dealt to the folds in turn. What is left over, and images whose class
    has no other, are always trained on and never judged.

    Raises:
      LinftError: there are fewer than two folds, or fewer images than folds.

    Example:
      >>> [held.tolist() for _, held in folds(np.array([0, 0, 1, 1, 2]), 2)]
      [[0, 3], [1, 2]]
    """
    order = np.random.default_rng([seed, 3]).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    order = order[np.bincount(labels)[labels[order]] > 1]
    if not 2 <= count <= len(order):
        raise LinftError(f"{count} folds of {len(order)} training images; give 2 to {len(order)}, or more images")
    size = len(order) // count
    held = [np.sort(order[number::count][:size]) for number in range(count)]
    return [(np.setdiff1d(np.arange(len(labels)), each), each) for each in held]


@dataclass(frozen=True)
class Searched:
    """What the folds say of every point."""

    points: list[Values]
    accuracy: Float[np.ndarray, "folds points"]
    """At the end, on the images held out; NaN where the point diverged."""
    loss: Float[np.ndarray, "folds points"]
    rows: list[list[Row]]
    """By fold and point."""
    dropped: list[str]
    """What no kernel predicts of the recipes."""

    @property
    def tied(self) -> Int[np.ndarray, "k"]:
        """Points that cannot be told apart from the most accurate one, by differences paired over folds (t-test)."""
        mean = np.where(np.isnan(self.accuracy).any(0), -np.inf, self.accuracy.mean(0))
        if not np.isfinite(mean).any():
            raise LinftError("every recipe that was tried is predicted to diverge; use fewer new layers or more images")
        best, k = int(mean.argmax()), len(self.accuracy)
        difference = self.accuracy[:, [best]] - self.accuracy
        margin = t.ppf((1 + LEVEL) / 2, k - 1) * difference.std(0, ddof=1) / np.sqrt(k)
        return np.flatnonzero(np.isfinite(mean) & (mean[best] - mean <= np.nan_to_num(margin)))

    @property
    def chosen(self) -> int:
        """Of those, the point of least held-out loss, of which one image more or less says less than of accuracy."""
        return int(self.tied[self.loss.mean(0)[self.tied].argmin()])


def search(
    tangent: Callable[[int], Tangent],
    grid: Sequence[GridBlock],
    base: Recipe,
    layer_groups: Sequence[str],
    count: int = 5,
    seed: int = 0,
    output: Path | None = None,
    described: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Searched:
    """Every point of a grid, predicted on each fold's held-out training images from the others.

    Folds are blocks of one kernel (`scores.predicted_accuracy`); a point takes as many steps on a fold as
    on all images.

    Args:
      tangent: from the number of new layer groups to the tangent of that start; its test part is not used.
      grid: what is tried.
      base: all other settings, with the steps of the run.
      layer_groups: of the model.
      count, seed: of the folds.
      output: a directory that keeps every fold's points as they are found; a call that was interrupted
        goes on from there.
      described: what is known of model and task; a directory of others is refused.
      progress: called as points are done.

    Raises:
      LinftError: too few images for the folds; a directory that holds another search.
    """
    cuts = folds(np.asarray(tangent(1).labels_train), count, seed)
    swept = []
    for number, (train, held) in enumerate(cuts, 1):

        def start(point: Point, train: np.ndarray = train, held: np.ndarray = held) -> Run:
            return predict.dual(part(tangent(point.reinit_groups), train, held))

        swept.append(
            sweep(
                start,
                list(grid),
                base,
                layer_groups=layer_groups,
                output=output,
                by=f"fold {number}",
                described=dict(described or {}),
                progress=progress,
            )
        )
    rows = [of.rows for of in swept]
    assert len({tuple(key(row.values) for row in of) for of in rows}) == 1
    ends = {
        name: np.array([[getattr(row, name) for row in of] for of in rows], float)
        for name in ("test_accuracy", "test_loss")
    }
    points = [row.values for row in rows[0]]
    return Searched(points, ends["test_accuracy"], ends["test_loss"], rows, swept[0].dropped)
