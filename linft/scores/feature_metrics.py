"""How sparse features are: over the units of an image, and over the images of a unit."""

import numpy as np
from jaxtyping import ArrayLike, Float

from linft.scores.arrays import Undefined, image_features


def feature_metrics(features: Float[ArrayLike, "n d"]) -> float:
    """Mean of `population_sparsity` and `lifetime_sparsity`. No labels are needed. Between 0 and 1.

    Ueno and Kondo 2020, *A base model selection methodology for efficient fine-tuning*, as Deshpande and
    others 2021, appendix C, use it: a linear combination of two sparsities of the features. Neither the
    two formulas nor the weights are in the latter; here the two are Treves and Rolls' measure along
    either axis of the features, at equal weights.

    Raises:
      Undefined: all images have the same features, or there is but one feature or one image.

    Example:
      >>> import numpy as np
      >>> feature_metrics(np.eye(4))
      1.0
    """
    return (population_sparsity(features) + lifetime_sparsity(features)) / 2


def population_sparsity(features: Float[ArrayLike, "n d"]) -> float:
    """(1 − (Σ_k |f_k| / d)² / (Σ_k f_k² / d)) / (1 − 1/d), the mean over images: 1 where one unit answers an image.

    Treves and Rolls 1991; Vinje and Gallant 2000. An image that no unit answers does not count.
    """
    return _sparsity(image_features(features))


def lifetime_sparsity(features: Float[ArrayLike, "n d"]) -> float:
    """The same along the other axis, the mean over units: 1 where a unit answers one image.

    A unit that answers no image does not count.
    """
    return _sparsity(image_features(features).T)


def _sparsity(x: Float[np.ndarray, "m k"]) -> float:
    """Mean over rows that are not zero."""
    k = x.shape[1]
    if k < 2:
        raise Undefined("sparsity needs two features and two images or more")
    x = np.abs(x[np.any(x != 0, axis=1)])
    x = x / x.max(1, keepdims=True)
    return float(np.mean((1 - x.mean(1) ** 2 / np.mean(x**2, axis=1)) / (1 - 1 / k)))
