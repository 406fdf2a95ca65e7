"""The randomized Nyström approximation of a positive semidefinite operator, and its preconditioner."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator

from linft.core.errors import LinftError
from linft.ntk.matrix_free.operator import precision, side
from linft.runtime.progress import Count


@dataclass(frozen=True)
class Nystrom:
    """Θ ≈ U diag(λ) Uᵀ with orthonormal columns U."""

    vectors: Float[np.ndarray, "size rank"]
    """U."""
    values: Float[np.ndarray, "rank"]
    """λ > 0, descending; each at most the eigenvalue of Θ of the same place."""

    def preconditioner(self, ridge: float) -> LinearOperator:
        """P⁻¹ = U diag((λ_r + ρ)/(λ + ρ)) Uᵀ + I − U Uᵀ for Θ + ρI (Frangella and others 2021, eq. 5.3)."""
        size, rank = self.vectors.shape
        shrink = (self.values[-1] + ridge) / (self.values + ridge) - 1 if rank else self.values

        def times(v: np.ndarray) -> np.ndarray:
            v = v.reshape(-1)
            return v + self.vectors @ (shrink * (self.vectors.T @ v))

        return LinearOperator((size, size), matvec=times, rmatvec=times, dtype=np.float64)  # pyright: ignore


def nystrom(operator: LinearOperator, rank: int, *, seed: int = 0, progress: Count | None = None) -> Nystrom:
    """The Nyström approximation (ΘΩ)(ΩᵀΘΩ)⁺(ΘΩ)ᵀ with an orthonormalized Gaussian Ω [size, rank].

    Frangella, Tropp and Udell 2021, "Randomized Nyström preconditioning", algorithm 2.1; directions of
    ΩᵀΘΩ within rounding of zero are left out, where the paper shifts them, so the rank may come out
    lower. It costs `rank` products, paid once for every ridge and right-hand side, and holds
    size × rank numbers. A rank near the number of eigenvalues above the ridge leaves conjugate
    gradients a few steps.

    Args:
      operator: symmetric and positive semidefinite, as `kernel_operator(model, x)`.
      rank: number of random directions, from 1 to the operator's size.
      seed: of Ω.
      progress: called with (products done, rank).

    Raises:
      LinftError: a rank out of range, or an operator that is not square or not positive semidefinite.

    Example:
      >>> import numpy as np
      >>> from scipy.sparse.linalg import aslinearoperator
      >>> nystrom(aslinearoperator(np.diag([4.0, 1.0, 0.0])), 2).values.shape
      (2,)
    """
    size = side(operator)
    if not 1 <= rank <= size:
        raise LinftError(f"the Nyström rank is {rank}; choose 1 to {size}, the operator's size")
    omega = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, rank)))[0]
    sketch = np.empty((size, rank))
    for i in range(rank):
        sketch[:, i] = operator @ omega[:, i]
        if progress:
            progress(i + 1, rank)
    core = omega.T @ sketch
    inner, turn = np.linalg.eigh((core + core.T) / 2)
    rounding = np.sqrt(size) * np.finfo(precision(operator)).eps * np.linalg.norm(sketch)
    if inner[0] < -100 * rounding:
        raise LinftError("the operator is not positive semidefinite; give a kernel of one set of images")
    kept = inner > rounding
    left, singular, _ = np.linalg.svd(sketch @ (turn[:, kept] / np.sqrt(inner[kept])), full_matrices=False)
    return Nystrom(left, singular**2)
