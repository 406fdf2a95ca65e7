"""Variance of the features between classes, over their whole variance."""

import numpy as np
from jaxtyping import ArrayLike, Float, Integer

from linft.scores.arrays import Undefined, labelled, one_hot, principal

SATURATED = 1e-6  # part of classes − 1


def hscore(features: Float[ArrayLike, "n d"], labels: Integer[ArrayLike, "n"]) -> float:
    """tr(Σ_α⁻¹ (1−α) Σ_Z), with Σ_Z the covariance of class means and Σ_α = (1−α) Σ + α (tr Σ / d) I.

    The shrinkage α is that of Ledoit and Wolf 2004, from the features alone; covariances are over n.
    Between 0 and classes − 1. Without shrinkage it is at that bound for every model as soon as the
    features have rank n − 1.

    Bao and others 2019, *An information-theoretic approach to transferability in task transfer learning*;
    shrinkage as Ibrahim and others 2021, *Newer is not always better: rethinking transferability metrics, their
    peculiarities, stability and performance*.

    Raises:
      Undefined: there is one class only, all images have the same features, or the score is at its bound
        and ranks nothing.

    Example:
      >>> import numpy as np
      >>> features = np.array([[1.0, 0.2], [0.8, 0.1], [-0.9, 0.3], [-1.1, -0.4]])
      >>> round(hscore(features, np.array([0, 0, 1, 1])), 4)
      0.9299
    """
    x, y = labelled(features, labels)
    n, d = x.shape
    x = x - x.mean(0)
    u, s, _ = principal(x / np.abs(x).max())
    squares = s**2 / n  # eigenvalues of the covariance
    alpha = _ledoit_wolf(u, s, d)
    of = one_hot(y)
    within = np.sum((u.T @ of) ** 2 / of.sum(0), axis=1)  # share of every component that is between classes
    score = float(np.sum((1 - alpha) * squares * within / ((1 - alpha) * squares + alpha * squares.sum() / d)))
    if y.max() - score <= SATURATED * y.max():
        raise Undefined(
            f"the H-score is saturated at classes − 1 = {y.max()}: {len(s)} components of {n} images fit all"
        )
    return score


def _ledoit_wolf(u: Float[np.ndarray, "n r"], s: Float[np.ndarray, "r"], d: int) -> float:
    """Ledoit and Wolf's shrinkage of the covariance of centred features u·s in d dimensions."""
    n = len(u)
    size = np.sum(s**4) / n**2  # ‖Σ‖²
    spread = size - np.sum(s**2) ** 2 / (n**2 * d)
    noise = (np.sum(np.sum((u * s) ** 2, axis=1) ** 2) / n - size) / n
    return float(min(noise, spread) / spread) if spread > 0 else 0.0
