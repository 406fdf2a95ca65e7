"""Every kind of prediction; which one `auto` takes; and the table of what was measured, which is that of the rows."""

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
from linft.core.base import Certificate, Trajectory
from linft.predict.choice import FALLS, KINDS, MEASURED, RUNS, auto, by, chosen, fall, unmeasured
from linft.predict.moving import ANCHORS

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "prediction_kinds.py"


def curve(*loss: float, diverged_at: int | None = None, certificate: Certificate | None = None) -> Trajectory:
    values = np.array(loss)
    return Trajectory(
        np.arange(len(loss)), *[values] * 4, distance={}, norm={}, seconds=0.0, diverged_at=diverged_at,
        certificate=certificate,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("head", "kind"),
    [("probe", "moving"), ("normal", "moving-features"), ("zeros", "moving-features")],
)
def test_auto_begins_with_what_suits_the_head_and_ends_with_traces(head, kind):
    assert [name for name, _ in auto(0.1, head, RUNS)] == [kind] * ANCHORS + ["dual", "trace"]


@pytest.mark.parametrize(("head", "kind"), [("probe", "moving"), ("normal", "moving-features")])
def test_auto_follows_adam_by_no_kernel(head, kind):
    assert [name for name, _ in auto(0.1, head, RUNS.replace(optimizer="adam"))] == [kind] * ANCHORS
    assert {name: by(name) for name in ("auto", "moving-features", "explicit", "dual", "features")} == {
        "auto": "Jacobian", "moving-features": "Jacobian", "explicit": "Jacobian", "dual": "kernel",
        "features": "kernel",
    }  # fmt: skip


def test_auto_sets_no_anchor_more_than_its_certificate_wants(model, task):
    recipe = linft.Recipe(learning_rate=0.02, batch_size=5, steps=8)
    (_, many), *_ = auto(10.0, "probe", recipe)
    (found,) = many(model, task, [recipe], 2)
    assert found.note.startswith("with Jacobians at step 0 of the predicted path") and found.certificate.error < 10
    np.testing.assert_allclose(
        found.train_loss, predict.dual(model, task, record_every=2)(recipe).train_loss, rtol=1e-9
    )


@pytest.mark.parametrize(
    ("certificate", "kind", "expected", "holds", "reason"),
    [
        (Certificate(0.03, 0.1, 40, 0.2), "moving", 0.03, True, "expected to be off by at most 3 %; within 10 % up to"),
        (Certificate(0.3, 0.1, 4, 1.2), "moving", 0.3, False, "10 % is not held; expected to be off by at most 30 %"),
        (
            Certificate(None, 0.1, 4, 1.2),
            "moving",
            None,
            False,
            "10 % is not held; not to be trusted as a whole; within",
        ),
        (None, "dual", None, False, "no kernel that moves can be had: too little memory"),
    ],
)
def test_what_was_come_to_is_told(certificate, kind, expected, holds, reason):
    found = chosen(0.1, kind, curve(2.0, 1.5, certificate=certificate))
    assert (found.kind, found.expected, found.holds) == (kind, expected, holds)
    assert found.reason.startswith(reason)


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
def test_it_is_told_in_what_a_run_is_unlike_those_measured(like, reason):
    model, task, recipe = OTHERS[reason](*like)
    assert unmeasured(model, task, recipe, "normal").startswith(reason)


@pytest.mark.parametrize(
    ("head", "scale", "measured"), [("probe", 1.0, True), ("normal", 0.1, False), ("zeros", 0.01, False)]
)
def test_heads_are_among_what_was_measured(like, head, scale, measured):
    assert (unmeasured(*like, RUNS.replace(learning_rate=1e-3, seed=5), head, scale) is None) == measured


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


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow if "moving" in k else ()) for k in KINDS])
def test_every_kind_begins_at_the_model_and_follows_it(kind, model, task):
    recipe = linft.Recipe(learning_rate=0.02, batch_size=5, steps=8)
    found = KINDS[kind].run(model, task, recipe, 2)
    real = linft.finetune(model, task, record_every=2)(recipe)
    np.testing.assert_array_equal(found.steps, real.steps)
    np.testing.assert_allclose(found.test_loss[0], real.test_loss[0])
    no_change = np.abs(real.train_loss[0] - real.train_loss).max()
    assert np.abs(found.train_loss - real.train_loss).max() < 0.9 * no_change
