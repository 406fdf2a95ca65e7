"""Coding rate of all features, less that of the features of each class."""

import numpy as np
from jaxtyping import ArrayLike, Float, Integer

from linft.core.errors import LinftError
from linft.scores.arrays import labelled


def transrate(features: Float[ArrayLike, "n d"], labels: Integer[ArrayLike, "n"], distortion: float = 1e-4) -> float:
    """R(Z) − Σ_c (n_c/n) R(Z_c), with R(Z) = ½ log det(I + ZᵀZ / (n ε)), ε the distortion.

    Z are the features, centred over all images and scaled to tr(ZᵀZ) = n; Z_c are those rows of it that
    are of class c, so R(Z_c) divides by n_c. In nats; about the mutual information of features and labels.

    Huang and others 2022, *Frustratingly easy transferability estimation*.

    Raises:
      LinftError: the distortion is not positive.
      Undefined: there is one class only, or all images have the same features.

    Example:
      >>> import numpy as np
      >>> features = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
      >>> round(transrate(features, np.array([0, 0, 1, 1]), distortion=0.1), 4)
      0.5928
    """
    if not distortion > 0:
        raise LinftError(f"distortion is {distortion}; it must be above 0")
    x, y = labelled(features, labels)
    z = x - x.mean(0)
    z = z / np.abs(z).max()
    z = z * np.sqrt(len(z) / np.sum(z**2))
    parts = [z[y == c] for c in range(y.max() + 1)]
    return _rate(z, distortion) - sum(len(part) / len(z) * _rate(part, distortion) for part in parts)


def _rate(z: Float[np.ndarray, "n d"], distortion: float) -> float:
    squares = np.linalg.svd(z, compute_uv=False) ** 2
    return float(np.log1p(squares / (len(z) * distortion)).sum() / 2)
