"""RSA and PARC: whether images that are unlike in the features are unlike in another network, or in their labels."""

import numpy as np
from jaxtyping import ArrayLike, Float, Integer

from linft.core.errors import LinftError
from linft.scores.arrays import CONSTANT, Undefined, image_features, labelled


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


def dissimilarities(features: Float[ArrayLike, "n d"], name: str = "features") -> Float[np.ndarray, "pairs"]:
    """1 − Pearson's correlation of the features of every two images i < j, to ten digits.

    The digits beyond are round-off, and would give ranks to pairs that are alike.

    Raises:
      Undefined: there are fewer than three images, or one whose features are all the same.
    """
    x = image_features(features, name)
    if len(x) < 3:
        raise Undefined(f"{len(x)} images have no two dissimilarities to compare")
    centred = x - x.mean(1, keepdims=True)
    size = np.linalg.norm(centred, axis=1, keepdims=True)
    flat = np.flatnonzero(size <= CONSTANT * np.abs(x).max(1, keepdims=True))
    if len(flat):
        raise Undefined(f"{name}: image {flat[0]} has the same number in all, so it correlates with nothing")
    unit = centred / size
    return np.round(1 - (unit @ unit.T)[np.triu_indices(len(x), 1)], 10)


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
