"""How a kernel's entries go with shared labels: of gradients (LGC), of features (LFC), and the error of either."""

import numpy as np
from jaxtyping import ArrayLike, Float, Integer

from linft.scores.arrays import CONSTANT, Undefined, class_numbers, labelled, square


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


def lgc(kernel: Float[ArrayLike, "n n"], labels: Integer[ArrayLike, "n"]) -> float:
    """Correlation of the tangent kernel Θ_ij = Σ_c ∇f_c(x_i) · ∇f_c(x_j) with shared labels.

    Which weights the gradients are with respect to is the caller's choice; the paper takes the last
    convolution. The kernel is best the trace over the outputs: the gradient of the plain sum of a
    trained head's logits nearly vanishes.

    Deshpande and others 2021, *A linearized framework and a new benchmark for model selection for
    fine-tuning*, eq. 8 (S_LG).

    Raises:
      Undefined: there is one class only, or the kernel is constant.

    Example:
      >>> import numpy as np
      >>> lgc(np.array([[1.0, -1.0], [-1.0, 1.0]]), np.array([0, 1]))
      1.0
    """
    return alignment(kernel, labels)


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
