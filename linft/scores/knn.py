"""Leave-one-out accuracy of the nearest neighbours."""

import numpy as np
from jaxtyping import ArrayLike, Float, Integer

from linft.core.errors import LinftError
from linft.scores.arrays import Undefined, labelled, one_hot


def knn(features: Float[ArrayLike, "n d"], labels: Integer[ArrayLike, "n"], k: int = 5) -> float:
    """Share of images whose class is the commonest among their k nearest others, by the cosine.

    Classes as common as each other are told apart by the sum of their cosines. An image whose class has
    no other is a neighbour, but is not judged.

    Raises:
      LinftError: k is not between 1 and the number of other images.
      Undefined: there is one class only, no class has two images, all images have the same features, or
        an image's are zero.

    Example:
      >>> import numpy as np
      >>> knn(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]), np.array([0, 0, 1, 1]), k=1)
      1.0
    """
    x, y = labelled(features, labels)
    if not 1 <= k < len(x):
        raise LinftError(f"k is {k}; give 1 to {len(x) - 1}, the number of other images")
    of = one_hot(y)
    judged = of.sum(0)[y] > 1
    if not judged.any():
        raise Undefined("no class has two images")
    size = np.linalg.norm(x, axis=1, keepdims=True)
    if not size.all():
        raise Undefined(f"the features of image {int(np.argmin(size))} are zero, so it has no cosine")
    cosine = (x / size) @ (x / size).T
    np.fill_diagonal(cosine, -np.inf)
    nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
    # one vote each; the cosines, which sum up to less than half a vote, settle ties
    votes = 1 + np.take_along_axis(cosine, nearest, axis=1) / (2 * k + 1)
    found = np.argmax(np.einsum("nk,nkc->nc", votes, of[nearest]), axis=1)
    return float(np.mean((found == y)[judged]))
