"""Correlation between a kernel's entries and whether two images share a label."""

import numpy as np
from jaxtyping import ArrayLike, Float, Integer

from linft.scores.inputs import CONSTANT, class_numbers, square
from linft.scores.undefined import Undefined


def alignment(kernel: Float[ArrayLike, "n n"], labels: Integer[ArrayLike, "n"]) -> float:
    """⟨Θ − μ_Θ, K − μ_K⟩ / (‖Θ − μ_Θ‖ ‖K − μ_K‖) with K = 1 for two images of one class, −1 for others.

    Pearson's correlation over all n² entries, the diagonal among them; μ are means of entries and norms
    are entrywise (Frobenius). Between −1 and 1, whatever the kernel's scale.

    Deshpande and others 2021, *A linearized framework and a new benchmark for model selection for
    fine-tuning*, eq. 8.

    Raises:
      Undefined: there is one class only, or the kernel is constant.

    Example:
      >>> import numpy as np
      >>> round(alignment(np.array([[2.0, 1, 0], [1, 2, 0], [0, 0, 2]]), np.array([0, 0, 1])), 4)
      0.9087
    """
    y = class_numbers(labels)
    theta = square(kernel, len(y))
    scale = np.abs(theta).max()
    if np.ptp(theta) <= CONSTANT * scale:
        raise Undefined("the kernel is constant: no two images differ in it")
    theta = theta / scale  # so that no square overflows
    theta = theta - theta.mean()
    same = np.where(y[:, None] == y, 1.0, -1.0)
    same -= same.mean()
    return float(np.vdot(theta, same) / (np.linalg.norm(theta) * np.linalg.norm(same)))
