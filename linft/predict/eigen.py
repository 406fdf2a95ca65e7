"""Eigenvalues of a tangent's kernel: of its factors or its matrix, by Krylov methods where that is large."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh
from scipy.sparse.linalg import LinearOperator

from linft.core.errors import LinftError
from linft.ntk.matrix_free.krylov import spectral_measure, top_eigenvalues
from linft.ntk.tiled import memory
from linft.predict.operator import Operator, apply

TOLERANCE = 1e-6
"""Of eigenvectors, relative; eigenvalues are far closer."""
DENSE = 20
"""Rows for each eigenvalue asked for, up to which a full kernel is quicker factored than multiplied by."""
STEPS = 200
"""Of Lanczos, at most, where a residual is laid out over eigenvalues."""


@dataclass(frozen=True)
class Eigenbasis:
    """Θ = (P ⊗ Q) diag(λ) (P ⊗ Q)ᵀ: P and Q are the eigenvectors of K and A where Θ = K ⊗ A; otherwise Q is 1."""

    values: Float[np.ndarray, "k"]
    """λ ≥ 0."""
    left: Float[np.ndarray, "p p"]
    right: Float[np.ndarray, "q q"]

    def coordinates(self, x: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "k"]:
        """(P ⊗ Q)ᵀ x."""
        return (self.left.T @ x.reshape(len(self.left), -1) @ self.right).reshape(-1)

    def vector(self, z: Float[np.ndarray, "k"]) -> Float[np.ndarray, "nc"]:
        """(P ⊗ Q) z."""
        return (self.left @ z.reshape(len(self.left), -1) @ self.right.T).reshape(-1)


def eigenbasis(op: Operator) -> Eigenbasis:
    """All eigenvalues of an operator on the host; of K ⊗ A from those of K and A, exactly.

    Raises:
      LinftError: neither a single K ⊗ A nor small enough for its matrix [n·c n·c], with what that takes.
    """
    if _factors(op):
        (of_kernel, left), (of_mixing, right) = (np.linalg.eigh(np.asarray(factor)) for factor in op[0])
        return Eigenbasis(np.maximum(np.outer(of_kernel, of_mixing), 0).reshape(-1), left, right)
    size = side(op)
    if reason := too_large(size):
        raise LinftError(reason)
    matrix = sum(
        block if mixing is None else block[:, None, :, None] * mixing[None, :, None, :] for block, mixing in op
    )
    values, vectors = np.linalg.eigh(np.reshape(matrix, (size, size)))
    return Eigenbasis(np.maximum(values, 0), vectors, np.ones((1, 1)))


def too_large(size: int) -> str | None:
    """Why the host has no room for all eigenvectors of so many rows n·c; None where it has."""
    try:
        memory.check_host({"all eigenvectors": 4 * 8 * size**2}, "use fewer images, or predict.dual, which needs none")
    except LinftError as error:
        return str(error)
    return None


def side(op: Operator) -> int:
    """Rows n·c of an operator of one set of images."""
    block, mixing = op[0]
    return len(block) * (block.shape[1] if mixing is None else len(mixing))


def top(op: Operator, k: int) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "nc k"]]:
    """The k largest eigenvalues of an operator on the host, descending, or all there are; and their vectors."""
    k = min(k, side(op))
    if len(op) == 1 and op[0][1] is None and side(op) <= DENSE * k:
        size = side(op)
        matrix = np.reshape(op[0][0], (size, size))
        values, vectors = eigh(matrix, subset_by_index=(size - k, size - 1))
        return values[::-1], vectors[:, ::-1]
    if not _factors(op):
        return top_eigenvalues(_linear(op, partial(apply, op)), k, tolerance=TOLERANCE)
    basis = eigenbasis(op)
    first = np.argsort(-basis.values, kind="stable")[:k]
    i, j = np.divmod(first, len(basis.right))
    return basis.values[first], (basis.left[:, None, i] * basis.right[None, :, j]).reshape(-1, k)


def layout(op: Operator, x: Float[np.ndarray, "n c"]) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """Eigenvalues of an operator on the host, descending, and the share of ‖x‖² along each.

    Of K ⊗ A all; otherwise those of Lanczos from x, so many that they are all where n·c ≤ `STEPS`, and else the
    quadrature that tells as many moments of x's distribution over eigenvalues as it can.
    """
    if not _factors(op):
        return spectral_measure(_linear(op, partial(apply, op)), x.reshape(-1), STEPS)
    basis = eigenbasis(op)
    order = np.argsort(-basis.values, kind="stable")
    return basis.values[order], basis.coordinates(x)[order] ** 2 / max(float(np.vdot(x, x)), 1e-300)


def largest(op: Operator, root: Float[np.ndarray, "n c c"]) -> float:
    """The largest eigenvalue of R Θ R, with a symmetric matrix R of every example."""

    def turned(x: np.ndarray) -> np.ndarray:
        return np.einsum("nij,nj->ni", root, x)

    values, _ = top_eigenvalues(_linear(op, lambda x: turned(np.asarray(apply(op, turned(x))))), 1)
    return float(max(values[0], 0.0))


def _linear(op: Operator, product: Callable[[np.ndarray], Any]) -> LinearOperator:
    """A product on [n c], as SciPy has operators."""
    size, (block, mixing) = side(op), op[0]
    shape = (len(block), block.shape[1] if mixing is None else len(mixing))

    def times(v: np.ndarray) -> np.ndarray:
        return np.asarray(product(v.reshape(shape))).reshape(-1)

    return LinearOperator((size, size), matvec=times, rmatvec=times, dtype=np.float64)  # pyright: ignore


def _factors(op: Operator) -> bool:
    return len(op) == 1 and op[0][1] is not None
