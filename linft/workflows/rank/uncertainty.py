"""Ranking uncertainty: errors of scores from halves of a sample, groups of models that tie, a consensus of scores.

The values of m models are computed on a sample of n images, and again on many halves of it: the same
images for all models. A bootstrap would draw images twice, and to a score that compares images a copy is
a perfect neighbour; halves without replacement have no copies. By the delete-d jackknife their spread
is, to first order, that of the whole sample's value (Shao and Wu 1989).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import norm, rankdata

LEVEL = 0.95


def halves(labels: Int[np.ndarray, "n"], count: int, seed: int = 0) -> Int[np.ndarray, "count k"]:
    """Indices of so many random halves of a sample: of every class half its images, rounded up, two if it has two.

    Example:
      >>> import numpy as np
      >>> halves(np.array([0, 0, 0, 0, 1, 1]), count=3).shape
      (3, 4)
    """
    rng = np.random.default_rng([seed, 2])
    members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    kept = [min(len(of), max(2, (len(of) + 1) // 2)) for of in members]

    def one() -> np.ndarray:
        return np.sort(np.concatenate([rng.permutation(of)[:k] for of, k in zip(members, kept, strict=True)]))

    return np.stack([one() for _ in range(count)]) if count else np.zeros((0, sum(kept)), np.int64)


def inflation(n: int, kept: int) -> float:
    """Variance of a value of n images over that between values of `kept` of them: k / (n − k); 0 where all are kept."""
    return kept / (n - kept) if kept < n else 0.0


def standard_errors(on_halves: Float[np.ndarray, "r m"], factor: float) -> Float[np.ndarray, "m"]:
    """√(factor · mean square deviation over halves) of each of m values; NaN where less than two are known.

    Args:
      on_halves: values on r halves; NaN where there is none.
      factor: from `inflation`.
    """
    known = (~np.isnan(on_halves)).sum(0)
    if len(on_halves) < 2 or factor == 0:
        return np.full(on_halves.shape[1], np.nan)
    errors = np.sqrt(factor * np.nanvar(np.where(known[None, :] > 1, on_halves, 0.0), axis=0))
    return np.where(known > 1, errors, np.nan)


def margin(level: float = LEVEL) -> float:
    """Standard errors on either side of a value that hold so much of a normal distribution."""
    return float(norm.ppf((1 + level) / 2))


def groups(
    values: Float[np.ndarray, "m"], on_halves: Float[np.ndarray, "r m"], factor: float, level: float = LEVEL
) -> Int[np.ndarray, "m"]:
    """The group of each value, from 0: those that cannot be told apart from the best of their group.

    From the best downwards, a value begins a new group where it is below the first of the group by more
    than the margin of their difference, whose error comes from the same halves. Values whose error is
    unknown are told apart. NaN is in no group: −1.

    Example:
      >>> import numpy as np
      >>> on_halves = np.array([[3.0, 2.9, 1.0], [3.2, 3.4, 1.1], [2.8, 2.6, 0.9]])
      >>> groups(np.array([3.0, 2.9, 1.0]), on_halves, factor=1.0).tolist()
      [0, 0, 1]
    """
    order = [i for i in np.argsort(-values, kind="stable") if not np.isnan(values[i])]
    found, leader, group = np.full(len(values), -1), None, -1
    for i in order:
        if leader is not None:
            error = standard_errors((on_halves[:, leader] - on_halves[:, i])[:, None], factor)[0]
        if leader is None or not values[leader] - values[i] <= margin(level) * np.nan_to_num(error):
            leader, group = i, group + 1
        found[i] = group
    return found


def consensus(columns: Sequence[Float[np.ndarray, "*r m"]]) -> Float[np.ndarray, "*r m"]:
    """Mean over scores of the share of other models that a model beats, a tie being half a win (Borda).

    Between 0 and 1; a model without others has 1. A model without a value is left out of that score;
    without any, it is NaN.

    Example:
      >>> import numpy as np
      >>> consensus([np.array([0.1, 0.5, 0.3]), np.array([2.0, 3.0, np.nan])]).tolist()
      [0.0, 1.0, 0.5]
    """
    shares = np.stack([_beaten(column) for column in columns])
    known = (~np.isnan(shares)).sum(0)
    return np.where(known > 0, np.nansum(shares, 0) / np.maximum(known, 1), np.nan)


def _beaten(values: Float[np.ndarray, "*r m"]) -> Float[np.ndarray, "*r m"]:
    """Share of the others with a value that are below each."""
    known = ~np.isnan(values)
    ranks = rankdata(values, axis=-1, nan_policy="omit")
    others = known.sum(-1, keepdims=True) - 1
    shares = np.where(others > 0, (ranks - 1) / np.maximum(others, 1), 1.0)
    return np.where(known, shares, np.nan)
