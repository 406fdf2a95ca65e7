"""How a predicted sweep agrees with the real one of the same points."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import kendalltau

from linft.workflows.sweep.result import Row, best_first, key


@dataclass(frozen=True, kw_only=True)
class SweepAgreement:
    """Rank correlation of the points that finished in both, and what trusting the prediction would have cost."""

    points: int
    """How many finished in both; of none, what follows the counts is None."""
    diverged_in_both: int
    only_predicted: int
    """Points that diverged as predicted and not really."""
    only_real: int
    """Points that diverged really and not as predicted."""
    tau_accuracy: float | None = None
    """Kendall's τ_b of test accuracy; None where either is constant."""
    tau_loss: float | None = None
    """The same of test loss."""
    accuracy_difference: float | None = None
    """Mean of |predicted − real| test accuracy."""
    regret: float | None = None
    """The real test accuracy that is greatest, minus that of the point predicted to be best."""


def agreement(predicted: Sequence[Row], real: Sequence[Row]) -> SweepAgreement:
    """How the points that both sides have agree.

    The point predicted to be best has the greatest predicted test accuracy, and of equals the least loss.

    Example:
      >>> rows = [Row(values={"learning_rate": rate}, status="finished", effective_rate=rate, test_accuracy=a,
      ...             test_loss=1 - a) for rate, a in ((0.1, 0.7), (0.01, 0.8), (0.001, 0.6))]
      >>> found = agreement(rows, rows)
      >>> found.points, found.tau_accuracy, found.regret
      (3, 1.0, 0.0)
    """
    by_point = {key(row.values): row for row in real}
    pairs = [(row, by_point[key(row.values)]) for row in predicted if key(row.values) in by_point]
    both = [pair for pair in pairs if all(row.status == "finished" for row in pair)]
    diverged = [tuple(row.status == "diverged" for row in pair) for pair in pairs]
    counts = {
        "points": len(both),
        "diverged_in_both": diverged.count((True, True)),
        "only_predicted": diverged.count((True, False)),
        "only_real": diverged.count((False, True)),
    }
    if not both:
        return SweepAgreement(**counts)
    _, at_best = min(both, key=lambda pair: best_first(pair[0]))
    accuracy = np.array([[row.test_accuracy for row in pair] for pair in both])
    loss = np.array([[row.test_loss for row in pair] for pair in both])
    return SweepAgreement(
        **counts,
        tau_accuracy=_tau(accuracy),
        tau_loss=_tau(loss),
        accuracy_difference=float(np.abs(accuracy[:, 0] - accuracy[:, 1]).mean()),
        regret=float(accuracy[:, 1].max() - at_best.accuracy),
    )


def _tau(pairs: np.ndarray) -> float | None:
    if any(len(set(column)) < 2 for column in pairs.T.tolist()):
        return None
    return float(kendalltau(*pairs.T).statistic)  # pyright: ignore
