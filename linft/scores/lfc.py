"""Label-feature correlation."""

from jaxtyping import ArrayLike, Float, Integer

from linft.scores.alignment import alignment
from linft.scores.inputs import labelled


def lfc(features: Float[ArrayLike, "n d"], labels: Integer[ArrayLike, "n"]) -> float:
    """Correlation of Θ_F = F Fᵀ, the inner products of features, with shared labels.

    It is the label-gradient correlation of a last linear layer without bias, to whose weights the
    kernel of f = W φ is proportional. Between −1 and 1; rotations and scale of the features leave it.

    Deshpande and others 2021, *A linearized framework and a new benchmark for model selection for
    fine-tuning*, eq. 6 normalised by eq. 8 (S_LF).

    Raises:
      Undefined: there is one class only, or all images have the same features.

    Example:
      >>> import numpy as np
      >>> lfc(np.array([[1.0], [-1.0]]), np.array([0, 1]))
      1.0
    """
    x, y = labelled(features, labels)
    x = x / abs(x).max()
    return alignment(x @ x.T, y)
