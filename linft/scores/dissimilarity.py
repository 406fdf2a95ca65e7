"""How unlike two images' features are."""

import numpy as np
from jaxtyping import ArrayLike, Float

from linft.scores.inputs import CONSTANT, image_features
from linft.scores.undefined import Undefined


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
