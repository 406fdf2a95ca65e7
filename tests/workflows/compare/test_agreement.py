"""Distances between curves, and the telescoping chain."""

import numpy as np
import pytest

from linft.core.base import Trajectory
from linft.workflows.compare.agreement import agreement, loss_curve_error, steps_to_loss
from linft.workflows.compare.attribution import CAUSES, Attribution, attribute, summary


def curve(train_loss, accuracy=0.5, diverged_at=None):
    """A trajectory recorded every 10 steps."""
    loss = np.asarray(train_loss, float)
    rest = np.full_like(loss, accuracy)
    return Trajectory(np.arange(len(loss)) * 10, loss, loss + 1, rest, rest, {}, {}, 0.0, diverged_at=diverged_at)


def test_a_run_agrees_with_itself():
    real = curve([2.0, 1.0, 0.4])
    found = agreement(real, real)
    assert found.train_loss_error == 0
    assert found.test_accuracy_difference == 0
    assert [level.relative_error for level in found.steps_to_loss] == [0, 0, 0]


def test_loss_curve_error_is_relative_to_the_mean_of_the_real_loss():
    assert loss_curve_error(curve([2.0, 2.0]), curve([2.0, 1.0])) == pytest.approx(0.5 / 1.5)


def test_curves_of_diverged_runs_are_compared_where_both_are():
    assert loss_curve_error(curve([2.0, 2.0]), curve([2.0, 1.0, 9.0])) == pytest.approx(0.5 / 1.5)
    assert loss_curve_error(curve([2.0]), curve([2.0, 1.0])) is None


@pytest.mark.parametrize(
    ("level", "steps"), [(2.0, 0.0), (1.5, 5.0), (1.0, 10.0), (0.7, 15.0), (0.4, 20.0), (0.3, None)]
)
def test_steps_to_loss_lie_on_the_line_between_recorded_steps(level, steps):
    run = curve([2.0, 1.0, 0.4])
    assert steps_to_loss(run.steps, run.train_loss, level) == (None if steps is None else pytest.approx(steps))


@pytest.mark.parametrize(("predicted", "error"), [([2.0, 0.0, 0.0], -0.5), ([2.0, 1.75, 1.25], 2.0)])
def test_a_prediction_that_is_early_errs_below_zero_and_one_that_is_late_above(predicted, error):
    first, *_ = agreement(curve(predicted), curve([2.0, 1.0, 1.0])).steps_to_loss
    assert first.reference_steps == pytest.approx(5)
    assert first.relative_error == pytest.approx(error)


def test_a_level_that_only_one_run_reaches_has_no_relative_error():
    levels = agreement(curve([2.0, 1.6]), curve([2.0, 0.4])).steps_to_loss
    assert [level.steps is None for level in levels] == [True, True, True]
    assert all(level.relative_error is None for level in levels)


def test_the_terms_add_up_to_the_total():
    rng = np.random.default_rng(0)
    runs = {name: curve(rng.uniform(0.1, 2, 5), rng.uniform()) for name in CAUSES}
    found = attribute(runs)
    first, last = (summary(runs[name]) for name in (next(iter(CAUSES)), list(CAUSES)[-1]))
    assert len(found.links) == len(CAUSES) - 1
    for key in first:
        assert sum(getattr(link, key) for link in found.links) == pytest.approx(getattr(found.total, key))
        assert getattr(found.total, key) == pytest.approx(last[key] - first[key])


def test_the_chain_skips_runs_that_were_not_made_and_ends_before_one_that_diverged():
    runs = {"finetuned": curve([2.0, 1.0]), "dual": curve([2.0, 1.2]), "dual_trace": curve([2.0], diverged_at=10)}
    (link,) = attribute(runs).links
    assert (link.start, link.end) == ("finetuned", "dual")
    assert link.cause == "features to first order, network to first order"
    assert attribute({"finetuned": curve([2.0, 1.0])}) == Attribution(links=[], total=None)
