"""How fast the loss falls at first, by the kernel along the residual."""

import numpy as np
from jaxtyping import ArrayLike, Float

from linft.scores.inputs import finite, square
from linft.scores.undefined import Undefined


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
