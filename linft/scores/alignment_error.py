"""What errors of a kernel's entries make of its alignment."""

import numpy as np
from jaxtyping import ArrayLike, Float, Integer

from linft.scores.alignment import alignment
from linft.scores.inputs import class_numbers, square


def alignment_error(
    kernel: Float[ArrayLike, "n n"], errors: Float[ArrayLike, "n n"], labels: Integer[ArrayLike, "n"]
) -> float:
    """Standard error of `alignment`, from those of the entries, to first order.

        ∂r/∂Θ_ij = (k_ij − r t_ij) / ‖Θ − μ_Θ‖,   k = (K − μ_K)/‖K − μ_K‖,  t = (Θ − μ_Θ)/‖Θ − μ_Θ‖

    An entry and its mirror image are one number; other entries' errors are taken for independent, though
    those of a random projection share its draws.

    Raises:
      Undefined: as of `alignment`.

    Example:
      >>> import numpy as np
      >>> kernel, labels = np.array([[2.0, 1, 0], [1, 2, 0], [0, 0, 2]]), np.array([0, 0, 1])
      >>> round(alignment_error(kernel, np.full((3, 3), 0.1), labels), 4)
      0.0218
    """
    value, y = alignment(kernel, labels), class_numbers(labels)
    theta, error = square(kernel, len(y)), square(errors, len(y))
    size = np.linalg.norm(theta - theta.mean())
    same = np.where(y[:, None] == y[None, :], 1.0, -1.0)
    same -= same.mean()
    slope = (same / np.linalg.norm(same) - value * (theta - theta.mean()) / size) / size
    both = np.tril(2 * slope * error, -1)
    return float(np.sqrt(np.sum(both**2) + np.sum((np.diag(slope) * np.diag(error)) ** 2)))
