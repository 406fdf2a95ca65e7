"""What `auto` takes is the cheapest kind that the measured table says will do; the table is that of the rows."""

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest

import linft
from linft import predict
from linft.core.base import Trajectory
from linft.core.errors import LinftError
from linft.predict import choice
from linft.predict.choice import (
    EXACT,
    FALLS,
    FROZEN,
    KINDS,
    MEASURED,
    RUNS,
    PredictionKind,
    affordable,
    auto,
    choose,
    fall,
    unmeasured,
)

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "prediction_kinds.py"


def curve(*loss: float, diverged_at: int | None = None) -> Trajectory:
    values = np.array(loss)
    return Trajectory(np.arange(len(loss)), *[values] * 4, distance={}, norm={}, seconds=0.0, diverged_at=diverged_at)


RUN_COUNTS = {"fresh": (3, 4, 5), "probe": (0, 0, 0)}
THREE = ("dear", "fair", "cheap")


@pytest.fixture
def three(monkeypatch) -> None:
    """Kinds of a table that is easy to read."""
    errors = {"cheap": (0.01, 0.1, 0.5), "fair": (0.02, 0.05, None), "dear": (0.005, 0.03, 0.2)}
    kinds = {
        name: PredictionKind(name, predict.dual, 1.0, {"fresh": row, "probe": (None,) * 3}, RUN_COUNTS)
        for name, row in errors.items()
    }
    monkeypatch.setattr(choice, "KINDS", kinds)


@pytest.mark.parametrize(
    ("error", "fallen", "kind", "expected", "holds"),
    [
        (0.05, 0.05, "cheap", 0.01, True),
        (0.05, 0.25, "cheap", 0.01, True),
        (0.05, 0.4, "fair", 0.05, True),
        (0.04, 0.4, "dear", 0.03, True),
        (0.01, 0.4, "dear", 0.03, False),
        (0.5, 0.9, "cheap", 0.5, True),
        (0.3, 0.9, "dear", 0.2, True),
        (0.5, None, "dear", None, False),
    ],
)
def test_the_cheapest_that_holds_the_error(three, error, fallen, kind, expected, holds):
    found = choose(error, fallen, "fresh", THREE)
    assert (found.kind, found.expected, found.holds) == (kind, expected, holds)


def test_says_why(three):
    assert choose(0.05, 0.4, "fresh", THREE).reason == (
        "expected to be off by 5.0% "
        "(upper quartile of 4 measured runs with a fresh head and a loss falling by 25% to 60%)"
    )
    assert choose(0.001, 0.05, "fresh", THREE).reason == (
        "no kind is expected to hold 0.1%; this one comes closest, with 0.5% "
        "(upper quartile of 3 measured runs with a fresh head and a loss falling by less than 25%)"
    )
    nothing = choose(0.1, 0.05, "probe", THREE)
    assert (nothing.kind, nothing.expected, nothing.holds) == ("dear", None, False)
    assert nothing.reason.startswith("nothing was measured with a probe head and such a fall of the loss; ")
    assert choose(0.1, 1.0, "fresh", THREE).reason.endswith("falling by 60% to 100%)")
    with pytest.raises(LinftError, match="error is 0; give a number above 0"):
        choose(0, 0.2, "fresh")


def test_what_does_not_fit_is_not_chosen(three):
    assert choose(0.04, 0.4, "fresh", ("fair", "cheap")).kind == "fair"


@pytest.fixture(scope="module")
def like() -> tuple[linft.Model, linft.Task]:
    """As in the measured runs."""
    task = linft.load_task("digits").subset(96, 32, seed=0)
    return linft.load_model("resnet14-cifar10").with_head(10, jax.random.key(0)), task


OTHERS = {
    "weights from mnist (measured: CIFAR-10)": lambda m, t: (m.replace(source={"data": "mnist"}), t, RUNS),
    "cifar_resnet20 (measured": lambda m, t: (m.replace(architecture={"name": "cifar_resnet20"}), t, RUNS),
    "95 training images (measured: 96)": lambda m, t: (m, t.subset(95, 32), RUNS),
    "200 steps (measured: 48)": lambda m, t: (m, t, RUNS.replace(steps=200)),
    "weight_decay=0.1 (measured: 0.0)": lambda m, t: (m, t, RUNS.replace(weight_decay=0.1)),
    "batch_norm=train (measured: frozen)": lambda m, t: (m, t, RUNS.replace(batch_norm="train")),
    "batch_size=16 (measured: 32), loss=squared_error": lambda m, t: (
        m,
        t,
        RUNS.replace(batch_size=16, loss="squared_error"),
    ),
}


@pytest.mark.parametrize("reason", OTHERS)
def test_nothing_is_promised_of_runs_unlike_those_measured(like, reason):
    model, task, recipe = OTHERS[reason](*like)
    found = auto(0.05, model, task, recipe, lambda: pytest.fail("no prediction is looked at"), "normal")
    assert found.reason.startswith(f"not measured for {reason}")
    kinds = [kind for kind in affordable(model, task) if recipe.batch_norm == "frozen" or kind not in FROZEN]
    assert (found.kind, found.expected, found.holds) == (kinds[0], None, False)


@pytest.mark.parametrize(
    ("head", "scale", "measured"), [("probe", 1.0, True), ("normal", 0.1, False), ("zeros", 0.01, False)]
)
def test_of_runs_like_those_measured_their_errors_are_told(like, head, scale, measured):
    model, task = like
    recipe = RUNS.replace(learning_rate=1e-3, seed=5)
    assert (unmeasured(model, task, recipe, head, scale) is None) == measured
    if measured:
        found = auto(0.9, model, task, recipe, lambda: curve(2.0, 1.9), head, scale)
        assert found == choose(0.9, fall(curve(2.0, 1.9)), "probe") and found.holds
    with pytest.raises(LinftError, match="error is 0; give a number above 0"):
        auto(0, model, task, recipe, lambda: curve(2.0, 1.9), head, scale)


def test_the_most_exact_that_fits(like, monkeypatch):
    """Traces need a hundredth of what ten classes need, and those less than 64 features."""
    n, m, groups = 96, 32, 5
    once = 2 * groups * n * (n + m) * 4
    for room, kinds in ((64**2, EXACT), (500, ("relinearize", *EXACT[2:])), (5, EXACT[-2:]), (0, ("trace",))):
        monkeypatch.setattr(choice.memory, "budget", lambda limit, room=room: room * once)
        assert affordable(*like) == kinds


def test_fall():
    assert fall(curve(2.0, 1.8, 1.5)) == 0.25
    assert fall(curve(2.0, 2.1, 1.5)) is None
    assert fall(curve(2.0, 1.0, diverged_at=2)) is None
    assert fall(curve(0.0, 0.0)) == 0


@pytest.fixture(scope="module")
def experiment() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prediction_kinds", EXPERIMENT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_measured_is_what_the_committed_rows_say(experiment):
    directory = EXPERIMENT.parent / "results" / "prediction_kinds" / "laptop"
    rows = experiment.finished(directory)
    assert json.loads(MEASURED.read_text()) == experiment.measured(rows)
    assert list(KINDS) == sorted(KINDS, key=lambda name: KINDS[name].cost or math.inf), "the cheapest first"
    assert all(len(kind.errors["fresh"]) == len(kind.errors["probe"]) == len(FALLS) for kind in KINDS.values())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_begins_at_the_model_and_follows_it(kind, model, task):
    recipe = linft.Recipe(learning_rate=0.02, batch_size=5, steps=8)
    found = KINDS[kind].run(model, task, recipe, 2)
    real = linft.finetune(model, task, record_every=2)(recipe)
    np.testing.assert_array_equal(found.steps, real.steps)
    np.testing.assert_allclose(found.test_loss[0], real.test_loss[0])
    no_change = np.abs(real.train_loss[0] - real.train_loss).max()
    assert np.abs(found.train_loss - real.train_loss).max() < 0.9 * no_change
