"""Scatter between classes over scatter within them."""

import numpy as np
from jaxtyping import ArrayLike, Float, Integer

from linft.core.errors import LinftError
from linft.scores.arrays import Undefined, labelled, one_hot, principal


def fisher(features: Float[ArrayLike, "n d"], labels: Integer[ArrayLike, "n"], ridge: float = 0.0) -> float:
    """tr((S_w + ρ (tr S_w / d) I)⁻¹ S_b) / C, with S_w and S_b the covariances within and between C classes.

    S_w = (1/n) Σ_c Σ_{i of c} (φ_i − φ̄_c)(φ_i − φ̄_c)ᵀ and S_b = (1/n) Σ_c n_c (φ̄_c − φ̄)(φ̄_c − φ̄)ᵀ. The
    ridge ρ is a part of the mean variance within classes, so that scale does not matter; it is 0 in the
    paper, which then asks for more images than features and classes together.

    Plested, Shen and Gedeon 2021, *Rethinking binary hyperparameters for deep transfer learning for image
    classification*, sec. 4.1.

    Raises:
      LinftError: the ridge is negative.
      Undefined: there is one class only, all images have the same features, the features of a class do
        not vary, or class means differ where S_w is singular and the ridge is 0.

    Example:
      >>> import numpy as np
      >>> round(fisher(np.array([[1.0], [3.0], [-1.0], [-3.0]]), np.array([0, 0, 1, 1])), 4)
      2.0
    """
    if not ridge >= 0:
        raise LinftError(f"ridge is {ridge}; it must be 0 or more")
    x, y = labelled(features, labels)
    x = (x - x.mean(0)) / np.abs(x).max()
    of = one_hot(y)
    counts = of.sum(0)
    means = of.T @ x / counts[:, None]
    _, s, vt = principal(x - of @ means)
    between = np.sqrt(counts)[:, None] * means
    along = np.sum((between @ vt.T) ** 2, axis=0)
    outside = np.sum((between - between @ vt.T @ vt) ** 2)
    singular = outside > 1e-12 * np.sum(between**2)
    penalty = ridge * np.sum(s**2) / x.shape[1]
    if singular and not penalty > 0:
        raise Undefined(
            f"{len(x)} images in {len(counts)} classes leave the covariance within classes singular; give a ridge"
        )
    score = np.sum(along / (s**2 + penalty)) + (outside / penalty if singular else 0.0)
    return float(score / len(counts))
