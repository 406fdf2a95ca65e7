"""How good choices by a score are: what is gained, what is missed, how long until the best, how orders agree.

For one target, with the fine-tuned accuracies a [m] of m models and their scores s [m], larger being
better. A model without a score (not a number) comes last. Where scores are equal, the mean over orders
drawn at random among the equal ones.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from linft.core.errors import LinftError

Vector = Float[np.ndarray, "m"]
ORDERS = 64  # drawn, where scores are equal


def orders(scores: Vector, seed: int = 0) -> Int[np.ndarray, "draws m"]:
    """Models from the best score to the worst; several orders where scores are equal.

    Example:
      >>> orders(np.array([0.1, 0.3, np.nan, 0.2])).tolist()
      [[1, 3, 0, 2]]
    """
    keys = np.where(np.isnan(scores), np.inf, -scores)
    if len(np.unique(keys)) == len(keys):
        return np.argsort(keys)[None]
    rng = np.random.default_rng(seed)
    return np.stack([np.lexsort((rng.permutation(len(keys)), keys)) for _ in range(ORDERS)])


def best_of(accuracies: Vector, scores: Vector, k: int) -> float:
    """Accuracy of the best of the first k: what one gets who fine-tunes these."""
    if not 1 <= k <= len(accuracies):
        raise LinftError(f"the first {k} of {len(accuracies)} models cannot be taken")
    return float(accuracies[orders(scores)[:, :k]].max(axis=1).mean())


def gain(accuracies: Vector, scores: Vector, k: int, reference: float) -> float:
    """Accuracy of the best of the first k, less that of the reference expert (Figs. 4 and 5)."""
    return best_of(accuracies, scores, k) - reference


def regret(accuracies: Vector, scores: Vector, k: int) -> float:
    """Accuracy of the best model, less that of the best of the first k."""
    return float(accuracies.max()) - best_of(accuracies, scores, k)


def trials(accuracies: Vector, scores: Vector) -> float:
    """How many models are fine-tuned, in order, until a best one is among them (Fig. 6a); at random (m + 1)/2.

    Example:
      >>> trials(np.array([0.5, 0.9, 0.7]), np.array([3.0, 1.0, 2.0]))
      3.0
    """
    is_best = (accuracies == accuracies.max())[orders(scores)]
    return float(1 + is_best.argmax(axis=1).mean())


def correlation(accuracies: Vector, scores: Vector, of: Callable[[Vector, Vector], tuple[float, float]]) -> float:
    """Spearman's, Kendall's or the weighted correlation of the models that have a score (Fig. 6b); 0 if all are equal.

    Args:
      of: `scipy.stats.spearmanr`, `kendalltau` or `weightedtau`.
    """
    known = ~np.isnan(scores)
    a, s = accuracies[known], scores[known]
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(s) == 0:
        return 0.0
    return float(of(a, s)[0])


MEASURES: dict[str, Callable[[Vector, Vector, float], float]] = {
    "gain of top 1": lambda a, s, reference: gain(a, s, 1, reference),
    "gain of top 3": lambda a, s, reference: gain(a, s, min(3, len(a)), reference),
    "regret of top 1": lambda a, s, reference: regret(a, s, 1),
    "regret of top 3": lambda a, s, reference: regret(a, s, min(3, len(a))),
    "trials until the best": lambda a, s, reference: trials(a, s),
    "Spearman": lambda a, s, reference: correlation(a, s, stats.spearmanr),
    "Kendall": lambda a, s, reference: correlation(a, s, stats.kendalltau),
    "weighted tau": lambda a, s, reference: correlation(a, s, stats.weightedtau),
}
"""(accuracies, scores, accuracy of the reference) -> value."""
SMALLER_IS_BETTER = ("regret of top 1", "regret of top 3", "trials until the best")
