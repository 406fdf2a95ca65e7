"""How a predicted sweep agrees with the real one of the same points."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from linft.workflows.sweep.result import Row, best_first, key


def agreement(predicted: Sequence[Row], real: Sequence[Row]) -> dict[str, Any]:
    r"""Rank correlation of the points that finished in both, and what trusting the prediction would have cost.

    | key | value |
    | --- | --- |
    | points | how many finished in both |
    | tau_accuracy, tau_loss | Kendall's τ_b of test accuracy and of test loss; None where either is constant |
    | accuracy_difference | mean of \|predicted − real\| test accuracy |
    | regret | the real test accuracy that is greatest, minus that of the point predicted to be best |
    | diverged | points that diverged: in both, only as predicted, only really |

    The point predicted to be best has the greatest predicted test accuracy, and of equals the least loss.

    Example:
      >>> rows = [Row(values={"learning_rate": rate}, status="finished", effective_rate=rate, test_accuracy=a,
      ...             test_loss=1 - a) for rate, a in ((0.1, 0.7), (0.01, 0.8), (0.001, 0.6))]
      >>> agreement(rows, rows)["tau_accuracy"], agreement(rows, rows)["regret"]
      (1.0, 0.0)
    """
    by_point = {key(row.values): row for row in real}
    pairs = [(row, by_point[key(row.values)]) for row in predicted if key(row.values) in by_point]
    both = [pair for pair in pairs if all(row.status == "finished" for row in pair)]
    diverged = [tuple(row.status == "diverged" for row in pair) for pair in pairs]
    found: dict[str, Any] = {
        "points": len(both),
        "diverged": [diverged.count(case) for case in ((True, True), (True, False), (False, True))],
    }
    if not both:
        return found | dict.fromkeys(("tau_accuracy", "tau_loss", "accuracy_difference", "regret"))
    _, at_best = min(both, key=lambda pair: best_first(pair[0]))
    accuracy = np.array([[row.test_accuracy for row in pair] for pair in both])
    loss = np.array([[row.test_loss for row in pair] for pair in both])
    return found | {
        "tau_accuracy": _tau(accuracy),
        "tau_loss": _tau(loss),
        "accuracy_difference": float(np.abs(accuracy[:, 0] - accuracy[:, 1]).mean()),
        "regret": float(accuracy[:, 1].max() - at_best.accuracy),
    }


def _tau(pairs: np.ndarray) -> float | None:
    if any(len(set(column)) < 2 for column in pairs.T.tolist()):
        return None
    return float(kendalltau(*pairs.T).statistic)  # pyright: ignore
