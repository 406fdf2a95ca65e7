"""Spearman's rank correlation, or the reason that there is none."""

import numpy as np
from jaxtyping import Float

from linft.scores.undefined import Undefined


def rank_correlation(a: Float[np.ndarray, "m"], b: Float[np.ndarray, "m"]) -> float:
    """Pearson's correlation of ranks; equal values share the mean of their ranks.

    Raises:
      Undefined: all values of one are equal.
    """
    from scipy.stats import rankdata  # slow to load

    ranks = np.stack([rankdata(a), rankdata(b)])
    ranks -= ranks.mean(1, keepdims=True)
    sizes = np.linalg.norm(ranks, axis=1)
    if not sizes.all():
        raise Undefined("all pairs of images are equally unlike, so there is no order to compare")
    return float(ranks[0] @ ranks[1] / sizes.prod())
