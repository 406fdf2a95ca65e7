"""The trace of an operator from products with random signs."""

from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import LinearOperator

from linft.core.errors import LinftError
from linft.ntk.matrix_free.operator import side
from linft.runtime.progress import Count


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
