"""Eigenvalues, ridge solutions and the trace of an operator from its products alone."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, cg, eigsh

from linft.core.errors import LinftError
from linft.ntk.matrix_free.nystrom import Nystrom
from linft.ntk.matrix_free.operator import precision, side
from linft.runtime.progress import Count

FEWEST = 20  # vectors that ARPACK holds


def top_eigenvalues(
    operator: LinearOperator, k: int, *, tolerance: float = 0.0, seed: int = 0
) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "size k"]]:
    """The k largest eigenvalues, descending, and their orthonormal eigenvectors, by implicitly restarted Lanczos.

    Few products for the few large eigenvalues that a kernel has, many where eigenvalues crowd; held in
    memory are 2k + 1 vectors, or 20. An operator of no more rows than that is multiplied out instead.

    Args:
      operator: symmetric, as `kernel_operator(model, x)`.
      k: from 1 to the operator's size.
      tolerance: of ‖Θu − λu‖ relative to λ; 0 is rounding.
      seed: of the starting vector.

    Raises:
      LinftError: k out of range, an operator that is not symmetric, or no convergence.

    Example:
      >>> import numpy as np
      >>> from scipy.sparse.linalg import aslinearoperator
      >>> top_eigenvalues(aslinearoperator(np.diag([1.0, 4.0, 2.0, 3.0])), 2)[0].round(6).tolist()
      [4.0, 3.0]
    """
    size = side(operator)
    if not 1 <= k <= size:
        raise LinftError(f"k is {k}; choose 1 to {size}, the operator's size")
    dtype = precision(operator)
    start, probe = np.random.default_rng(seed).normal(size=(2, size)).astype(dtype)
    image, other = operator @ start, operator @ probe
    scale = np.linalg.norm(image) * np.linalg.norm(probe)
    if abs(probe @ image - start @ other) > np.sqrt(np.finfo(dtype).eps) * scale:
        raise LinftError("the operator is not symmetric; give the kernel of one set of images")
    if not scale:  # a kernel of zeros, as below a head of zeros, where Lanczos cannot start
        return np.zeros(k), np.eye(size, k)
    if size <= max(2 * k + 1, FEWEST):
        matrix: np.ndarray = operator @ np.eye(size, dtype=dtype)  # pyright: ignore
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        return values[::-1][:k], vectors[:, ::-1][:, :k]
    try:
        values, vectors = eigsh(operator, k=k, which="LA", v0=start, tol=tolerance)  # pyright: ignore
    except ArpackNoConvergence as error:
        raise LinftError(
            f"Lanczos found {len(error.eigenvalues)} of {k} eigenvalues; "
            "ask for fewer, or use float64 images and weights"
        ) from None
    return values[::-1], vectors[:, ::-1]


def spectral_measure(
    operator: LinearOperator, v: Float[np.ndarray, "size"], steps: int
) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """How v lies over the eigenvectors u_j: points, descending, and their shares of Σ_j (u_jᵀv)² δ(λ − λ_j) / ‖v‖².

    Gauss quadrature by Lanczos from v, reorthogonalized (Golub and Meurant 1994, "Matrices, moments and
    quadrature"): exact once there are as many steps as eigenvalues along which v lies, and before that right in its
    first 2k moments, with v's share above the j-th point between the sums of the first j − 1 and of the first j shares.

    Args:
      operator: symmetric, as `kernel_operator(model, x)`.
      v: a vector; one of zeros has no shares.
      steps: products, at most; so many vectors are held.

    Example:
      >>> import numpy as np
      >>> from scipy.sparse.linalg import aslinearoperator
      >>> points, shares = spectral_measure(aslinearoperator(np.diag([1.0, 4.0, 2.0])), np.array([3.0, 4.0, 0.0]), 9)
      >>> points.round(6).tolist(), shares.round(6).tolist()
      ([4.0, 1.0], [0.64, 0.36])
    """
    size, length = side(operator), np.linalg.norm(v)
    if not length:
        return np.zeros(1), np.zeros(1)
    basis = np.zeros((min(steps, size), size))
    basis[0] = v / length
    diagonal, beside = np.zeros(len(basis)), np.zeros(len(basis))
    rounding = size * np.finfo(precision(operator)).eps
    k = len(basis)
    for j in range(len(basis)):
        image = operator @ basis[j]
        diagonal[j] = basis[j] @ image
        for _ in range(2):
            image = image - basis[: j + 1].T @ (basis[: j + 1] @ image)
        beside[j] = np.linalg.norm(image)
        if beside[j] <= rounding * max(np.abs(diagonal).max(), beside.max()):
            k = j + 1
            break
        if j + 1 < len(basis):
            basis[j + 1] = image / beside[j]
    points, vectors = eigh_tridiagonal(diagonal[:k], beside[: k - 1])
    return points[::-1], vectors[0, ::-1] ** 2


def time_constants(eigenvalues: Float[np.ndarray, "k"], learning_rate: float, n: int) -> Float[np.ndarray, "k"]:
    """Steps n / (η λ) after which the residual along each eigenvector has shrunk by e, infinite for λ ≤ 0.

    For the mean of ½‖f − y‖² over n examples and full-batch gradient descent at a rate η well below
    the edge of stability; with momentum m give η / (1 − m).

    Example:
      >>> import numpy as np
      >>> time_constants(np.array([50.0, 0.0]), 0.1, 100).tolist()
      [20.0, inf]
    """
    if not learning_rate > 0 or n < 1:
        raise LinftError(f"the learning rate is {learning_rate} and n is {n}; both must be above 0")
    with np.errstate(divide="ignore"):
        return n / (learning_rate * np.maximum(eigenvalues, 0))


@dataclass(frozen=True)
class Solution:
    """x of (Θ + ρI) x = y, and how it was found."""

    x: Float[np.ndarray, "..."]
    """Of y's shape."""
    quadratic_form: float
    """yᵀx, which falls short of yᵀ(Θ + ρI)⁻¹y by at most ‖r‖²/ρ, r = y − (Θ + ρI) x: the steps keep r ⊥ x."""
    residual: float
    """‖r‖ / ‖y‖, computed anew at the end."""
    steps: int
    """Steps of conjugate gradients, one product each."""


def solve(
    operator: LinearOperator,
    y: Float[np.ndarray, "..."],
    ridge: float,
    *,
    approximation: Nystrom | None = None,
    tolerance: float = 1e-4,
    max_steps: int = 500,
    progress: Count | None = None,
) -> Solution:
    """(Θ + ρI)⁻¹ y by conjugate gradients, preconditioned by a Nyström approximation where one is given.

    With y = Y − f0 and ρ = nλ, f0 + Θ(x', x) (Θ + ρI)⁻¹ y are the logits at x' of the linearized
    network at the minimum of (1/2n) ‖f − Y‖² + (λ/2) ‖w − w0‖², and yᵀ(Θ + ρI)⁻¹y / n is the bound on the
    test loss of Deshpande and others 2021, eq. 4. Without a preconditioner the steps grow as √((λmax + ρ)/ρ).

    Args:
      operator: symmetric and positive semidefinite, as `kernel_operator(model, x)`.
      y: as many numbers as the operator has rows, for a kernel [n c].
      ridge: ρ > 0.
      approximation: of the operator, from `nystrom`; it serves every y and ridge.
      tolerance: of the residual relative to y. Products in float32 reach about 1e-7 λmax/ρ.
      max_steps: most steps.
      progress: called with (steps done, most steps).

    Raises:
      LinftError: bad input, or a residual above the tolerance.

    Example:
      >>> import numpy as np
      >>> from scipy.sparse.linalg import aslinearoperator
      >>> solution = solve(aslinearoperator(np.diag([1.0, 3.0])), np.array([2.0, 8.0]), 1.0)
      >>> solution.x.round(6).tolist(), round(solution.quadratic_form, 6)
      ([1.0, 2.0], 18.0)
    """
    size, right = side(operator), np.asarray(y, np.float64).reshape(-1)
    if len(right) != size or not np.isfinite(right).all():
        raise LinftError(f"y has shape {np.shape(y)}; give {size} finite numbers, one for each row of the operator")
    if not 0 < ridge < np.inf:
        raise LinftError(f"ridge is {ridge}; it must be above 0, since kernels have eigenvalues near 0")
    if not 0 < tolerance < 1 or max_steps < 1:
        raise LinftError(f"tolerance is {tolerance} and max_steps {max_steps}; give one in (0, 1) and 1 or more steps")
    if approximation is not None and len(approximation.vectors) != size:
        raise LinftError(f"the approximation has {len(approximation.vectors)} rows and the operator {size}")
    steps = 0

    def count(_: np.ndarray) -> None:
        nonlocal steps
        steps += 1
        if progress:
            progress(steps, max_steps)

    def product(v: np.ndarray) -> np.ndarray:
        return operator.matvec(v) + ridge * v

    shifted = LinearOperator((size, size), matvec=product, dtype=np.float64)  # pyright: ignore
    inverse = None if approximation is None else approximation.preconditioner(ridge)
    # Half, because rounding parts the residual that the recursion carries along from the true one.
    x, _ = cg(shifted, right, rtol=tolerance / 2, atol=0.0, maxiter=max_steps, M=inverse, callback=count)
    residual = float(np.linalg.norm(right - product(x)) / (np.linalg.norm(right) or 1.0))
    if not residual <= tolerance:
        remedy = (
            "allow more steps, a larger ridge or a Nyström approximation of higher rank"
            if steps >= max_steps
            else "rounding allows no better: use a larger ridge or tolerance, or float64 images and weights"
        )
        raise LinftError(f"after {steps} steps the residual is {residual:.1e} of y, above {tolerance:.1e}; {remedy}")
    return Solution(x.reshape(np.shape(y)), float(right @ x), residual, steps)


class Trace(NamedTuple):
    """An unbiased estimate of a trace."""

    estimate: float
    standard_error: float


def trace(operator: LinearOperator, draws: int = 16, *, seed: int = 0, progress: Count | None = None) -> Trace:
    """tr Θ as the mean of zᵀΘz over random sign vectors z, exact where Θ is diagonal (Hutchinson 1989).

    Each draw is one product, of variance 2 Σ_{i≠j} Θ_ij² for symmetric Θ; the standard error is the
    draws' own.

    Args:
      operator: square.
      draws: number of sign vectors, 2 or more.
      seed: of the signs.
      progress: called with (draws done, draws).

    Raises:
      LinftError: fewer than 2 draws, or an operator that is not square.

    Example:
      >>> import numpy as np
      >>> from scipy.sparse.linalg import aslinearoperator
      >>> trace(aslinearoperator(np.diag([1.0, 2.0])), 3)
      Trace(estimate=3.0, standard_error=0.0)
    """
    size = side(operator)
    if draws < 2:
        raise LinftError(f"draws is {draws}; give 2 or more, so that there is a standard error")
    rng, values = np.random.default_rng(seed), np.empty(draws)
    for i in range(draws):
        signs = rng.choice([-1.0, 1.0], size=size)
        values[i] = signs @ (operator @ signs)
        if progress:
            progress(i + 1, draws)
    return Trace(float(values.mean()), float(values.std(ddof=1) / np.sqrt(draws)))
