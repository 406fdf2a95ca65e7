"""Singular values and vectors of a matrix of features, without those that are round-off."""

import numpy as np
from jaxtyping import Float


def principal(
    x: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, "n r"], Float[np.ndarray, "r"], Float[np.ndarray, "r d"]]:
    """U, s, Vᵀ with X = U diag(s) Vᵀ, where r is the numerical rank of X.

    U diag(s) are the rows of X in coordinates of their own span: at most n numbers an image, with the
    same inner products.
    """
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    r = int(np.sum(s > s.max(initial=0.0) * max(x.shape) * np.finfo(np.float64).eps))
    return u[:, :r], s[:r], vt[:r]
