"""How far the label-gradient correlation of a layer is from its feature-only form."""

import numpy as np
from jaxtyping import ArrayLike, Float, Integer

from linft.core.errors import LinftError
from linft.scores.arrays import Undefined, class_numbers, finite, one_hot


def decorrelation_gap(
    inputs: Float[ArrayLike, "n *t p"], gradients: Float[ArrayLike, "n *t q"], labels: Integer[ArrayLike, "n"]
) -> float:
    """(A − B) / (|A| + |B|), where A = (K − μ_K) · Θ is exact and B takes gradients and inputs as uncorrelated.

    A layer's weights have the gradient g_i = Σ_t J_it ⊗ a_it: inputs a_it times gradients J_it of the
    output with respect to what the layer puts out, summed over positions t (none for a dense layer).
    Θ_ij = g_i · g_j, and K and μ_K are those of eq. 8. B replaces J_it by its mean J̄ over images and
    positions, hence B = ‖J̄‖² (K − μ_K) · Θ_F with Θ_F from Σ_t a_it: what label-feature correlation is
    to label-gradient correlation.

    Between −1 and 1, 0 where the approximation is exact (a last linear layer); positive where more of
    the labels is in the gradients than the inputs show. Rotations and scales of either leave it. It
    judges the approximation rather than the model.

    Deshpande and others 2021, *A linearized framework and a new benchmark for model selection for
    fine-tuning*, appendix A, with the labels of eq. 8.

    Raises:
      LinftError: inputs and gradients are not of the same images and positions.
      Undefined: there is one class only, or both forms vanish.

    Example:
      >>> import numpy as np
      >>> inputs, gradients = np.array([[1.0], [1.0], [2.0]]), np.array([[1.0], [1.0], [-1.0]])
      >>> round(decorrelation_gap(inputs, gradients, np.array([0, 0, 1])), 4)
      1.0
    """
    y = one_hot(class_numbers(labels))
    a, j = finite(inputs, "inputs"), finite(gradients, "gradients")
    if a.shape[:-1] != j.shape[:-1] or len(a) != len(y):
        raise LinftError(
            f"inputs {a.shape}, gradients {j.shape} and {len(y)} labels do not belong together; "
            "give [images, positions, channels] of the same images and positions"
        )
    a, j = (_unit(z.reshape(len(y), -1, z.shape[-1])) for z in (a, j))
    exact = np.stack([np.tensordot(j[of], a[of], ((0, 1), (0, 1))) for of in y.T.astype(bool)])
    decorrelated = np.multiply.outer(y.T @ a.sum(1), j.mean((0, 1)))
    same = np.sum(y.mean(0) ** 2)  # share of pairs of one class: μ_K = 2·same − 1
    # (K − μ_K) · Θ by class sums of gradients, over 2
    one, other = (np.sum(sums**2) - same * np.sum(sums.sum(0) ** 2) for sums in (exact, decorrelated))
    if not abs(one) + abs(other) > 0:
        raise Undefined("neither gradients nor inputs differ between classes")
    return float((one - other) / (abs(one) + abs(other)))


def _unit(z: Float[np.ndarray, "n t p"]) -> Float[np.ndarray, "n t p"]:
    """At most 1 in size, so that no product overflows."""
    return z / max(np.abs(z).max(initial=0.0), np.finfo(np.float64).tiny)
