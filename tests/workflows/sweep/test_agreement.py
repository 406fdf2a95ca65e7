"""Agreement of predicted and real sweeps, counted by hand."""

import numpy as np
import pytest

from linft.workflows.sweep.agreement import SweepAgreement, agreement
from linft.workflows.sweep.result import Row


def rows(accuracies, losses=None) -> list[Row]:
    """None: the point diverged."""
    losses = losses or [None if a is None else 1 - a for a in accuracies]
    return [
        Row(
            values={"seed": i},
            status="diverged" if a is None else "finished",
            effective_rate=0.1,
            test_accuracy=a,
            test_loss=loss,
        )
        for i, (a, loss) in enumerate(zip(accuracies, losses, strict=True))
    ]


def tau_b(x, y) -> float:
    """By its definition over pairs."""
    pairs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i in range(len(x)) for j in range(i)]
    product, in_x, in_y = (sum(abs(p[k]) if k < 2 else p[0] * p[1] for p in pairs) for k in (2, 0, 1))
    return product / np.sqrt(in_x * in_y)


def test_counts():
    predicted = rows([0.5, 0.7, 0.7, None, 0.6, 0.6, None, None, None])
    real = rows([0.4, 0.8, 0.6, None, None, None, 0.3, 0.3, 0.3])
    found = agreement(predicted, real)
    assert found.points == 3 and (found.diverged_in_both, found.only_predicted, found.only_real) == (1, 3, 2)
    assert found.tau_accuracy == pytest.approx(tau_b([0.5, 0.7, 0.7], [0.4, 0.8, 0.6]))
    assert found.accuracy_difference == pytest.approx(0.1)
    assert found.regret == 0, "of the two predicted equal the one that comes first is the best"


def test_of_equal_accuracies_the_least_loss_is_predicted_to_be_best():
    found = agreement(rows([0.7, 0.7], [0.3, 0.2]), rows([0.9, 0.5]))
    assert found.regret == pytest.approx(0.4)


def test_only_points_of_both_count_and_nothing_is_known_of_none():
    assert agreement(rows([0.5]), rows([0.5, 0.6])).points == 1
    assert agreement(rows([None]), rows([0.5])) == SweepAgreement(
        points=0, diverged_in_both=0, only_predicted=1, only_real=0
    )
    assert agreement(rows([0.5, 0.5]), rows([0.1, 0.2])).tau_accuracy is None
