"""Errors from halves, groups and the consensus, against their definitions."""

import numpy as np
import pytest

from linft.workflows.rank import uncertainty


def test_halves_are_stratified_and_repeat_no_image():
    labels = np.array([0] * 7 + [1] * 2 + [2] + [3] * 4)
    found = uncertainty.halves(labels, 20, seed=1)
    assert found.shape == (20, 4 + 2 + 1 + 2)
    for half in found:
        assert len(set(half)) == len(half)
        assert np.bincount(labels[half]).tolist() == [4, 2, 1, 2]
    assert len({tuple(half) for half in found}) > 10
    np.testing.assert_array_equal(found, uncertainty.halves(labels, 20, seed=1))


def test_the_error_of_a_mean_is_that_of_statistics():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)) * [1, 2, 5]
    halves = uncertainty.halves(np.zeros(200, int), 2000)
    on_halves = np.stack([x[half].mean(0) for half in halves])
    ours = uncertainty.standard_errors(on_halves, uncertainty.inflation(200, 100))
    np.testing.assert_allclose(ours, x.std(0, ddof=1) / np.sqrt(200), rtol=0.05)


def test_an_unknown_error_is_nan():
    on_halves = np.array([[1.0, np.nan, np.nan], [2.0, 1.0, np.nan]])
    assert np.isnan(uncertainty.standard_errors(on_halves, 1.0)).tolist() == [False, True, True]
    assert np.isnan(uncertainty.standard_errors(on_halves[:0], 1.0)).all()
    assert np.isnan(uncertainty.standard_errors(on_halves, uncertainty.inflation(3, 3))).all()


def test_groups_are_told_apart_by_paired_differences():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(400, 1))  # moves all models together, so that it tells none apart
    noise = 0.1 * rng.normal(size=(400, 4))
    values = np.array([0.0, 0.5, 0.55, np.nan])
    found = uncertainty.groups(values, values[None, :] + common + noise, 1.0)
    assert found.tolist() == [1, 0, 0, -1]
    alone = uncertainty.groups(values, values[None, :] + 10 * rng.normal(size=(400, 4)), 1.0)
    assert alone.tolist() == [0, 0, 0, -1]


def test_without_errors_only_equals_are_together():
    values = np.array([2.0, 1.0, 2.0])
    assert uncertainty.groups(values, np.zeros((0, 3)), 1.0).tolist() == [0, 1, 0]


def test_consensus_is_the_mean_share_of_models_beaten():
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, 4, 6).astype(float) for _ in range(3)]
    columns[1][[0, 3]] = np.nan

    def share(column, i):
        others = [j for j in range(6) if j != i and not np.isnan(column[j])]
        return np.mean([(column[i] > column[j]) + 0.5 * (column[i] == column[j]) for j in others])

    expected = [np.mean([share(column, i) for column in columns if not np.isnan(column[i])]) for i in range(6)]
    np.testing.assert_allclose(uncertainty.consensus(columns), expected)
    np.testing.assert_allclose(uncertainty.consensus([np.stack([c, c]) for c in columns]), [expected, expected])


def test_a_model_without_any_score_has_no_consensus():
    found = uncertainty.consensus([np.array([1.0, 2.0, np.nan])])
    assert found[:2].tolist() == [0, 1] and np.isnan(found[2])


def test_a_model_alone_comes_first():
    assert uncertainty.consensus([np.array([-3.0]), np.array([np.nan])]).tolist() == [1]


@pytest.mark.parametrize(("n", "kept", "factor"), [(50, 25, 1.0), (50, 26, 26 / 24), (4, 4, 0.0)])
def test_inflation(n, kept, factor):
    assert uncertainty.inflation(n, kept) == pytest.approx(factor)
