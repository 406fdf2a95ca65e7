"""How much of the residual lies along small eigenvalues of the kernel, where it is not learnt but remembered."""

import numpy as np
from jaxtyping import ArrayLike, Float

from linft.core.errors import LinftError
from linft.scores.training_speed import normalized
from linft.scores.undefined import Undefined


def generalization(kernel: Float[ArrayLike, "n n"], residual: Float[ArrayLike, "n *c"], ridge: float = 0.0) -> float:
    """−Σ_c δY_cᵀ (Θ/θ̄ + ρI)⁻¹ δY_c / ‖δY‖², where θ̄ is the mean of Θ's diagonal and ρ the ridge.

    The bound of Arora and others 2019 on the test error, Yᵀ Θ⁻¹ Y / n, with its sign turned, so that more
    is better, and free of scale: the ridge is a part of the mean eigenvalue. By Jensen's inequality
    1 / (speed + ρ) ≤ −generalization, where speed is `training_speed` (eq. 5 is ρ = 0).

    Deshpande and others 2021, *A linearized framework and a new benchmark for model selection for
    fine-tuning*, eq. 4.

    Raises:
      LinftError: the ridge is negative.
      Undefined: the residual or the kernel is zero, or the kernel is singular and the ridge too small.

    Example:
      >>> import numpy as np
      >>> generalization(np.diag([3.0, 1.0]), np.array([0.0, 1.0]), ridge=0.5)
      -1.0
    """
    if not ridge >= 0:
        raise LinftError(f"ridge is {ridge}; it must be 0 or more")
    theta, delta = normalized(kernel, residual)
    values, vectors = np.linalg.eigh(theta)
    values = values + ridge
    if values[0] <= len(values) * np.finfo(np.float64).eps * values[-1]:
        raise Undefined(f"the kernel of {len(values)} images is singular at ridge {ridge:g}; give a larger ridge")
    return -float(np.sum((vectors.T @ delta) ** 2 / values[:, None]))
