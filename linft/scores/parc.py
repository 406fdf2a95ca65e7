"""Pairwise annotation representation comparison."""

import numpy as np
from jaxtyping import ArrayLike, Float, Integer

from linft.scores.dissimilarity import dissimilarities
from linft.scores.inputs import labelled
from linft.scores.rank_correlation import rank_correlation


def parc(features: Float[ArrayLike, "n d"], labels: Integer[ArrayLike, "n"]) -> float:
    """Spearman's correlation between 1 − corr(f(x_i), f(x_j)) and whether the labels differ, over i < j.

    Pairs that tie share the mean of their ranks; labels tie exactly, being compared rather than
    correlated. Between −1 and 1.

    Bolya and others 2021, *Scalable diverse model selection for accessible transfer learning*
    (without its reduction of the features, and not times 100).

    Raises:
      Undefined: there is one class only or no two images share one, an image's features are all the
        same number, or all pairs are equally unlike.

    Example:
      >>> import numpy as np
      >>> features = np.array([[1.0, 0.0, 2.0], [1.1, 0.0, 1.9], [2.0, 1.0, 0.0]])
      >>> round(parc(features, np.array([0, 0, 1])), 4)
      0.866
    """
    x, y = labelled(features, labels)
    i, j = np.triu_indices(len(y), 1)
    return rank_correlation(dissimilarities(x), (y[i] != y[j]).astype(np.float64))
