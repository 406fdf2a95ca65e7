"""Measures of a choice, against small cases that can be counted by hand and against scipy."""

import numpy as np
import pytest
from scipy import stats

from linft.core.errors import LinftError
from linft.workflows.benchmark import measures
from linft.workflows.benchmark.measures import MEASURES

ACCURACIES = np.array([0.5, 0.9, 0.7, 0.6, 0.8])


@pytest.fixture
def scores():
    return np.array([5.0, 1.0, 4.0, 3.0, 2.0])  # the first is chosen first; the best, second of all, last


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        ("gain of top 1", 0.5 - 0.6),
        ("gain of top 3", 0.7 - 0.6),
        ("regret of top 1", 0.9 - 0.5),
        ("regret of top 3", 0.9 - 0.7),
        ("trials until the best", 5),
        ("Spearman", 1 - 6 * sum(d**2 for d in (4, 4, 1, 1, 2)) / (5 * 24)),
        ("Kendall", None),
        ("weighted tau", None),
    ],
)
def test_by_hand(scores, measure, expected):
    if expected is None:
        of = {"Kendall": stats.kendalltau, "weighted tau": stats.weightedtau}[measure]
        expected = of(ACCURACIES, scores)[0]
    assert MEASURES[measure](ACCURACIES, scores, 0.6) == pytest.approx(expected)


def test_the_truth_itself_has_no_regret():
    for measure in ("regret of top 1", "regret of top 3"):
        assert MEASURES[measure](ACCURACIES, ACCURACIES, 0.5) == 0
    assert measures.trials(ACCURACIES, ACCURACIES) == 1
    for measure in ("Spearman", "Kendall", "weighted tau"):
        assert MEASURES[measure](ACCURACIES, ACCURACIES, 0.5) == pytest.approx(1)


def test_equal_scores_choose_at_random():
    """The expectation of a random choice: the mean accuracy, and (m + 1)/2 trials, to the error of 64 orders."""
    equal = np.zeros(5)
    assert measures.best_of(ACCURACIES, equal, 1) == pytest.approx(ACCURACIES.mean(), abs=0.06)
    assert measures.trials(ACCURACIES, equal) == pytest.approx(3, abs=0.7)
    assert measures.correlation(ACCURACIES, equal, stats.spearmanr) == 0


def test_a_model_without_a_score_comes_last():
    scores = np.array([np.nan, 1.0, 2.0, 3.0, np.nan])
    assert measures.orders(scores)[:, :3].tolist() == [[3, 2, 1]] * len(measures.orders(scores))
    assert measures.correlation(ACCURACIES, scores, stats.spearmanr) == pytest.approx(
        stats.spearmanr(ACCURACIES[1:4], scores[1:4])[0]
    )


@pytest.mark.parametrize("measure", MEASURES)
def test_measures_depend_on_the_order_of_scores_only(scores, measure):
    once, again = (MEASURES[measure](ACCURACIES, s, 0.6) for s in (scores, np.exp(scores) - 7))
    assert once == pytest.approx(again)


@pytest.mark.parametrize("measure", MEASURES)
def test_measures_do_not_depend_on_the_order_of_models(scores, measure):
    order = np.array([3, 0, 4, 1, 2])
    once, again = (MEASURES[measure](ACCURACIES[o], scores[o], 0.6) for o in (order, np.arange(5)))
    assert once == pytest.approx(again)


def test_more_than_there_are():
    with pytest.raises(LinftError, match="first 6 of 5"):
        measures.best_of(ACCURACIES, ACCURACIES, 6)
