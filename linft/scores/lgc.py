"""Label-gradient correlation."""

from jaxtyping import ArrayLike, Float, Integer

from linft.scores.alignment import alignment


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
