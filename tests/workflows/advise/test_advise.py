"""Advice comes from the training images alone, within the edge of stability and the budget."""

from dataclasses import replace

import drawn
import jax.numpy as jnp
import numpy as np
import pytest

import linft
from linft.cli.advise import runs_table
from linft.core.base import Kernel
from linft.core.errors import LinftError
from linft.predict.dual import dual
from linft.predict.stability import stability
from linft.predict.tangent import tangent
from linft.runtime import schema
from linft.workflows.advise import DEFAULT
from linft.workflows.advise.advise import advise, verify
from linft.workflows.advise.measures import Measures, curvature
from linft.workflows.advise.result import AdviceResult, KeptCurvature
from linft.workflows.advise.rules import RATES, RULES, Space, effective_rates, fired, narrowed, safe
from linft.workflows.advise.search import folds

NEAR = Measures(100, {"linear_probe": 0.9, "probe_gap": 0.3}, {})
FAR = Measures(100, {"linear_probe": 0.5, "probe_gap": -0.3}, {})
UNKNOWN = Measures(100, {"linear_probe": 0.5, "probe_gap": 0.0}, {})


@pytest.fixture(scope="module")
def model():
    return drawn.make(drawn.Normed())


@pytest.fixture(scope="module")
def task():
    return linft.load_task("digits").subset(20, 10)


@pytest.fixture(scope="module")
def advice(model, task):
    return advise(model, task, budget=4, folds=2)


def test_a_finding_holds_for_near_or_for_far_tasks():
    near, far = fired(NEAR), fired(FAR)
    names = [[rule.name for rule in rules] for rules in (near, far, RULES)]
    assert sorted(names[0] + names[1]) == sorted(names[2]) and fired(UNKNOWN) == ()
    assert narrowed(near).rates[1] < narrowed(far).rates[1] == Space().rates[1]
    assert min(alpha for alpha, _ in narrowed(near).decays) > 0 == max(alpha for alpha, _ in narrowed(far).decays)
    assert max(narrowed(near).reinit_groups) == 2 and max(narrowed(far).low_rates) < 1


def test_folds_are_equal_apart_and_leave_no_class_untrained():
    labels = np.repeat([0, 1, 2], [7, 5, 1])
    both = folds(labels, 3)
    held = np.concatenate([each for _, each in both])
    assert {len(each) for _, each in both} == {4} and len(np.unique(held)) == len(held)
    for trained, each in both:
        assert {*trained} | {*each} == {*range(13)} and {*labels[trained]} == {0, 1, 2}


def along_the_least(slow):
    """The curvature where residuals of 51 labels lie along the least of 255 eigenvalues, equally."""
    n, c = 51, 5
    labels = jnp.arange(n) % c
    theta = np.diag(np.r_[np.linspace(2.0, 1.0, n * c - n), slow])
    where = np.arange(n) * c + np.asarray(labels)  # in the place of label and image
    order = np.r_[np.setdiff1d(np.arange(n * c), where), where]
    theta = theta[np.ix_(np.argsort(order), np.argsort(order))]
    kernel, zeros = Kernel({"all": jnp.asarray(theta.reshape(n, c, n, c))}, "full"), jnp.zeros((n, c))
    arrays = (zeros, zeros, labels, labels, kernel, kernel, {"all": zeros}, {"all": zeros}, {"all": jnp.ones(())})
    return curvature(linft.Tangent(*arrays, {"all": jnp.eye(c) / c}), linft.Recipe(loss="squared_error", steps=3))


def test_what_half_of_the_residual_needs_may_lie_beyond_all_that_is_reported(x64):
    """Half of it lies down to the 26th of 51."""
    slow = np.geomspace(0.1, 0.001, 51)
    found = along_the_least(slow)
    assert found.condition == pytest.approx(2.0 / slow[25], rel=1e-6)
    assert len(found.eigenvalues) == 10 and found.eigenvalues[0] == pytest.approx(2.0)


def test_a_condition_without_bound_is_kept(x64, tmp_path):
    schema.write(tmp_path / "kept.json", KeptCurvature(found=along_the_least(np.zeros(51)), seconds=0.0))
    found = schema.read(tmp_path / "kept.json", KeptCurvature).found
    assert found.condition is None and found.learning(3) == np.inf
    assert len(effective_rates(Space(), found, linft.Recipe(), 3, 0.5)) == RATES


def test_the_advice_is_within_budget_and_edge(advice, model, task):
    assert advice.recipe.num_steps(20) == 4 and advice.searched.points[advice.searched.chosen] == advice.values
    start = advice.initialization(model, task, advice.reinit_groups)
    edge = stability(tangent(start, task), linft.predict.nearest(advice.recipe)[0])
    assert edge.worst_batch_h <= 1.05 * safe(advice.initialization, 4) * edge.limit  # rates have two digits


def test_a_recipe_in_training_mode_is_advised_by_the_kernel_of_training_mode(model, task):
    found = advise(model, task, budget=4, folds=2, default=DEFAULT.replace(batch_norm="train"))
    assert found.recipe.batch_norm == "train" and found.searched.dropped == []
    start = found.initialization(model, task, found.reinit_groups)
    there = tangent(start, task, batch_norm="train")
    assert found.curvatures[found.reinit_groups].largest == pytest.approx(
        curvature(there, found.recipe).largest, rel=1e-4
    )
    np.testing.assert_allclose(found.curve.train_loss, dual(there)(found.recipe).train_loss, rtol=1e-4)


def test_the_best_point_is_the_most_accurate_or_tied_with_it(advice):
    mean = np.nan_to_num(advice.searched.accuracy.mean(0), nan=-1)
    assert advice.searched.chosen in advice.searched.tied and int(mean.argmax()) in advice.searched.tied


def test_the_test_part_is_not_looked_at(advice, model, task):
    changed = linft.Task(
        **{**vars(task), "x_test": 255 - task.x_test[::-1], "y_test": (task.y_test + 1) % 10},
    )
    assert advise(model, changed, budget=4, folds=2).result().points == advice.result().points


def test_what_is_computed_is_kept(advice, model, task, tmp_path):
    """An interrupted call goes on, another one is refused."""

    def interrupt(what, done, total):
        if what == "fold 1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        advise(model, task, budget=4, folds=2, output=tmp_path, progress=interrupt)
    kept = {path.name for path in tmp_path.iterdir()}
    assert "measures.json" in kept and "advice.json" not in kept
    found = advise(model, task, budget=4, folds=2, output=tmp_path)
    assert found.values == advice.values and (tmp_path / "advice.json").exists()
    with pytest.raises(LinftError, match="budget"):
        advise(model, task, budget=5, folds=2, output=tmp_path)


def test_a_run_that_diverges_is_told_beside_one_that_ends(advice, model, task, tmp_path):
    wild = replace(advice, default=advice.default.replace(learning_rate=1e6))
    wild.write(tmp_path, verify(wild, model, task, tmp_path))
    found = schema.read(tmp_path / "advice.json", AdviceResult).verified
    ended, diverged = found["advised"], found["default"]
    assert ended.diverged is None and ended.final.accuracy == pytest.approx(ended.trajectory.test_accuracy[-1])
    assert (diverged.final, diverged.trajectory) == (None, None) and "learning rate" in diverged.diverged
    _, rows = runs_table(wild, found)
    assert rows[0][2] == f"{ended.final.accuracy:.1%}" and rows[1][2] == "diverged"


@pytest.mark.parametrize(
    ("options", "said"), [({"budget": 0}, "budget"), ({"folds": 1}, "fold"), ({"folds": 99}, "fold")]
)
def test_refused(model, task, options, said):
    with pytest.raises(LinftError, match=said):
        advise(model, task, **{"budget": 4, "folds": 2, **options})
