"""Evidence of a linear model from the features to the labels."""

import numpy as np
from jaxtyping import ArrayLike, Float, Integer

from linft.scores.arrays import Undefined, labelled, one_hot, principal


def logme(features: Float[ArrayLike, "n d"], labels: Integer[ArrayLike, "n"]) -> float:
    """Mean over classes of max_{α,β} log p(y_c | F, α, β) / n, with y_c one-hot, w ~ N(0, I/α), y ~ N(Fw, I/β).

    With F = U diag(s) Vᵀ, t = α/β, z = Uᵀy and the best β for every t, the evidence is

      ½ Σ_k log t/(t + s_k²) − (n/2) log (1/n)(Σ_k z_k² t/(t + s_k²) + ‖y‖² − ‖z‖²) − (n/2)(1 + log 2π),

    a function of t alone, of which the largest value is searched: exact for any number of features, and
    the same for features of any scale. In nats an image.

    You and others 2021, *LogME: practical assessment of pre-trained models for transfer learning*.

    Raises:
      Undefined: there is one class only, all images have the same features, or a class is an exact
        linear function of fewer features than images, where the evidence has no largest value.

    Example:
      >>> import numpy as np
      >>> round(logme(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.1]]), np.array([0, 0, 1])), 4)
      -0.4194
    """
    x, y = labelled(features, labels)
    u, s, _ = principal(x / np.abs(x).max())
    return float(np.mean([_evidence(u, s**2, target) for target in one_hot(y).T]))


def _evidence(u: Float[np.ndarray, "n r"], squares: Float[np.ndarray, "r"], y: Float[np.ndarray, "n"]) -> float:
    """The largest evidence of one target, over the number of images."""
    n, r = u.shape
    z = (u.T @ y) ** 2
    outside = float(np.sum((y - u @ (u.T @ y)) ** 2)) if r < n else 0.0
    if r < n and outside <= n * np.finfo(np.float64).eps * np.sum(y**2):
        raise Undefined(f"{r} features fit a class of {n} images exactly: the evidence is unbounded")

    # It can have several peaks: the highest point of a grid, which reaches where t no longer matters, then closer.
    low, high = np.log(squares[-1]) - 25, np.log(squares[0]) + 25
    for _ in range(5):
        log_t = np.linspace(low, high, 100)
        share = 1 / (1 + squares * np.exp(-log_t)[:, None])  # t / (t + s²)
        found = np.log(share).sum(1) / n - np.log((share @ z + outside) / n)
        best = int(np.argmax(found))
        low, high = log_t[max(best - 1, 0)], log_t[min(best + 1, len(log_t) - 1)]
    return float(found[best] - 1 - np.log(2 * np.pi)) / 2
