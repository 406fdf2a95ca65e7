"""How a kernel moved: against formulas in float64, and along a run."""

import numpy as np
import pytest
from narrow import small_resnet

import linft
from linft.ntk import empirical_ntk
from linft.scores.alignment import lgc
from linft.workflows.compare.drift import cosine, drift

LABELS = np.array([0, 0, 1, 2, 2])


def kernel(seed, rank=5):
    rows = np.random.default_rng(seed).normal(size=(5, rank))
    return rows @ rows.T


def test_the_cosine_ignores_scale_and_sees_orthogonality():
    a = np.array([[2.0, 1.0], [1.0, 3.0]])
    assert cosine(a, 5 * a) == pytest.approx(1)
    assert cosine(np.diag([1.0, 0.0]), np.diag([0.0, 1.0])) == 0
    assert cosine(a, 0 * a) is None


def test_a_kernel_that_doubles_in_one_group():
    low, high = kernel(0), kernel(1)
    start, end = drift({0: {"low": low, "high": high}, 7: {"low": low, "high": 2 * high}}, LABELS).at
    assert (start.step, end.step) == (0, 7)
    assert start.with_start.whole == pytest.approx(1) and start.norm_ratio == pytest.approx(1)
    assert end.with_start.groups == pytest.approx({"low": 1.0, "high": 1.0})
    before, after = low + high, low + 2 * high
    assert end.norm_ratio == pytest.approx(np.linalg.norm(after) / np.linalg.norm(before))
    cosine = np.vdot(before, after) / (np.linalg.norm(before) * np.linalg.norm(after))
    assert end.with_start.whole == pytest.approx(cosine) and cosine < 0.999
    assert end.with_labels.whole == pytest.approx(lgc(after, LABELS))
    assert end.with_labels.groups == pytest.approx({"low": lgc(low, LABELS), "high": lgc(2 * high, LABELS)})


@pytest.mark.parametrize("rank", [1, 3])
def test_effective_rank_counts_equal_directions(rank):
    directions = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0][:, :rank]
    (found,) = drift({0: {"all": 4 * directions @ directions.T}}, LABELS).at
    assert found.effective_rank == pytest.approx(rank)


def test_what_is_not_defined_is_left_out():
    start, end = drift({0: {"all": kernel(3)}, 1: {"all": np.zeros((5, 5))}}, LABELS).at
    assert end.effective_rank is None and end.with_labels.whole is None and end.norm_ratio == 0
    assert start.effective_rank is not None


def test_a_comparison_has_the_real_kernels_beside_the_predicted_ones_at_the_same_steps():
    model, task = small_resnet(10), linft.load_task("digits").subset(12, 10)
    recipe = linft.Recipe(learning_rate=1e-3, batch_size=6, steps=8)
    result = linft.compare(model, task, recipe, runs=("finetuned", "moving"), record_every=2).result
    real, predicted = result.kernel.drift, result.kernel.predicted_drift
    assert real is not None and predicted is not None
    assert [at.step for at in real.at] == [at.step for at in predicted.at] == [0, 2, 4, 6, 8]
    assert real.at[0] == predicted.at[0]
    halfway = linft.finetune(model, task, until=4)(recipe).model
    assert halfway is not None
    blocks = empirical_ntk(halfway, halfway.preprocess(task.x_train)).traces()
    expected = lgc(np.asarray(sum(blocks.values())), task.y_train)
    assert real.at[2].with_labels.whole == pytest.approx(expected, rel=1e-4)
    assert real.at[-1].norm_ratio < 0.5
    for really, told in zip(real.at, predicted.at, strict=True):
        assert told.with_start.whole == pytest.approx(really.with_start.whole, abs=1e-3)
        assert told.norm_ratio == pytest.approx(really.norm_ratio, rel=0.05)


def test_without_a_kernel_that_moves_it_is_computed_at_the_end_only():
    model, task = small_resnet(10), linft.load_task("digits").subset(12, 10)
    recipe = linft.Recipe(learning_rate=1e-3, batch_size=6, steps=8)
    result = linft.compare(model, task, recipe, runs=("finetuned", "dual"), record_every=2).result
    assert result.kernel.drift is not None and result.kernel.predicted_drift is None
    assert [at.step for at in result.kernel.drift.at] == [0, 8]
