"""Representation similarity with a small network trained on the target."""

from jaxtyping import ArrayLike, Float

from linft.core.errors import LinftError
from linft.scores.dissimilarity import dissimilarities
from linft.scores.rank_correlation import rank_correlation


def rsa(features: Float[ArrayLike, "n d"], reference: Float[ArrayLike, "n e"]) -> float:
    """Spearman's correlation between the dissimilarities 1 − corr(f(x_i), f(x_j)) of two networks, over i < j.

    The reference features are those of a small network trained on the target task. Between −1 and 1.

    Dwivedi and Roig 2019, *Representation similarity analysis for efficient task taxonomy and transfer
    learning*; Deshpande and others 2021, eq. 9 to 11.

    Raises:
      LinftError: the two are not of the same images.
      Undefined: there are fewer than three images, an image's features are all the same number, or all
        pairs are equally unlike.

    Example:
      >>> import numpy as np
      >>> features = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 2.0], [2.0, 1.0, 0.0]])
      >>> round(rsa(features, 3 * features + 1), 4)
      1.0
    """
    a, b = dissimilarities(features), dissimilarities(reference, "reference features")
    if len(a) != len(b):
        raise LinftError("features and reference features are not of the same number of images")
    return rank_correlation(a, b)
