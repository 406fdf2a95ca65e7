"""How a kernel learns a residual: how fast its loss falls at first, and how well that generalizes."""

import numpy as np
from jaxtyping import ArrayLike, Float

from linft.core.errors import LinftError
from linft.scores.arrays import Undefined, finite, square


def training_speed(kernel: Float[ArrayLike, "n n"], residual: Float[ArrayLike, "n *c"]) -> float:
    """Σ_c δY_cᵀ Θ δY_c / (‖δY‖² θ̄), where θ̄ is the mean of Θ's diagonal.

    The first step of gradient flow on the squared error lowers the loss in proportion to δYᵀΘδY. Over
    the residual's square it is a mean of Θ's eigenvalues, weighted by how much of the residual lies
    along each; over the mean eigenvalue it is free of scale, between 0 and n, and 1 for a kernel that
    knows nothing of the labels. A residual of several outputs takes one kernel for each of them.

    Deshpande and others 2021, *A linearized framework and a new benchmark for model selection for
    fine-tuning*, eq. 3.

    Raises:
      Undefined: the residual or the kernel is zero.

    Example:
      >>> import numpy as np
      >>> training_speed(np.diag([3.0, 1.0]), np.array([2.0, 0.0]))
      1.5
    """
    theta, delta = normalized(kernel, residual)
    return float(np.vdot(delta, theta @ delta))


def normalized(
    kernel: Float[ArrayLike, "n n"], residual: Float[ArrayLike, "n *c"]
) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "n c"]]:
    """Θ / θ̄ and δY / ‖δY‖ in columns."""
    delta = finite(residual, "residual")
    delta = delta.reshape(len(delta), -1)
    theta = square(kernel, len(delta))
    size, mean = np.linalg.norm(delta), np.trace(theta) / len(theta)
    if not size > 0:
        raise Undefined("the residual is zero: there is nothing left to learn")
    if not mean > 0:
        raise Undefined("the kernel's diagonal is zero: nothing trains")
    return theta / mean, delta / size


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
