"""Every Run, a row of RUNS, held to the same: its judge, its start, one by one and many, resumed, refused."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import jax
import judges
import numpy as np
import pytest
from replayed import (
    ADAM,
    CE,
    CURVES,
    DECAY,
    FULL_BATCH,
    HEAVY,
    NESTEROV,
    PLAIN,
    RATES,
    RECIPES,
    SE,
    assert_same,
    values,
    with_all_anchors,
)

import linft
from linft import predict
from linft.core import trees
from linft.core.base import Run, Trajectory
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.predict.tangent import load, save
from linft.runtime import checkpoints

CLASSES = r"the model has 3 outputs and the task 4 classes; use model.with_head\(4, …\)"


@dataclass(frozen=True)
class Subject:
    """What the runs are of: a network, its task, and what is made of both once."""

    model: linft.Model
    task: linft.Task
    explicit: judges.Explicit
    tangents: dict[Any, Any]
    """By function, whether groups are whole, and how."""

    def tangent(self, make: Callable[..., Any], whole: bool, **kernel: Any) -> Any:
        key = (make, whole, *kernel.items())
        if key not in self.tangents:
            groups = None if whole else trees.split_vectors(self.model.stages)
            self.tangents[key] = make(self.model, self.task, groups=groups, **kernel)
        return self.tangents[key]

    @cached_property
    def linear(self) -> linft.Model:
        return linft.linearize(self.model)

    @cached_property
    def linear_features(self) -> linft.Model:
        return linft.linearize(self.model, at="features")

    @cached_property
    def judges(self) -> dict[str, judges.Network]:
        return {
            "model": judges.as_it_is(self.model, self.task),
            "linear": judges.linear(self.explicit),
            "linear_features": judges.linear_features(self.model, self.task),
        }


Judge = Callable[[Subject, Recipe, np.ndarray], dict[str, np.ndarray]]
"""Curves and lengths at the recorded steps."""


def sgd(network: str) -> Judge:
    return lambda s, recipe, record: judges.sgd(s.judges[network], s.explicit, recipe, record)


def moved(s: Subject, recipe: Recipe, record: np.ndarray) -> dict[str, np.ndarray]:
    near = judges.moving(partial(judges.along, s.judges["model"]), s.explicit, recipe, 2)
    return judges.sgd(near, s.explicit, recipe, record)


def flow(s: Subject, recipe: Recipe, record: np.ndarray) -> dict[str, np.ndarray]:
    return judges.flow(s.explicit, recipe, record)


def some(*names: str) -> dict[str, Recipe]:
    return {name: RECIPES[name] for name in names}


ONLY_HEAD = {"frozen_groups": ("conv", "norm", "hidden")}
"""Where one number for each pair of images is exact: the head's kernel is φᵀφ' ⊗ I."""
DECOUPLED = "decoupled, group rates and decay"
TRAINED = some("all at once", "decay to the pretrained", DECOUPLED, "in order")
MOVED = some("all at once", "group rates and decay")
HEAD = {"the head alone": CE.replace(**ONLY_HEAD, **DECAY), "the head alone, Nesterov": SE.replace(**ONLY_HEAD)}
FLOWS = {
    "squared error": PLAIN,
    "momentum, group rates": HEAVY.replace(learning_rate=0.002, label_smoothing=0.3, **RATES),
    "cross-entropy, a step": PLAIN.replace(loss="cross_entropy", schedule="step", batch_size=4),
    "smoothed labels": PLAIN.replace(loss="cross_entropy", label_smoothing=0.3),
}


def pair(recipe: Recipe) -> tuple[Recipe, Recipe]:
    """At two rates: of a recipe that is run anyway, alone it needs no other program."""
    return recipe, recipe.replace(learning_rate=0.03)


FAMILY = [SE, SE.replace(learning_rate=0.01, momentum=0.5), SE.replace(learning_rate=1e4), SE.replace(seed=7)]
"""Of one structure, of which one diverges; what else `dual` runs in one program, and what it does not."""
OTHERS = {"shuffle": False, "batch_size": 10}, {"l2sp": 0.1}, {**RATES, **DECAY}
MORE = [*(SE.replace(**other) for other in OTHERS), CE.replace(steps=20)]

NO_JACOBIAN = {
    "batch norm is in training mode, and the kernel's is frozen": {"batch_norm": "train"},
    "augmented images are not the images of the kernel": {"augmentation": "flip"},
}
NO_KERNEL = NO_JACOBIAN | {
    "Adam is not linear in the gradient; use predict.moving or predict.explicit": {"optimizer": "adam"}
}
NO_GROUP = {"no layer group matches 'stage1'; this model has ": {"frozen_groups": ("stage1",)}}
NO_TRAINING_MODE = {"no training mode": {"batch_norm": "train"}}
NO_OTHER_STEPS = {
    "clipping is not linear in the gradient; use predict.dual": {"clip_norm": 1.0},
    "the average of the weights has no closed form here; use predict.dual": {"ema": 0.9},
}
NO_CLOSED_FORM = {
    "no closed form for this recipe: the loss is not squared error": {"loss": "cross_entropy"},
    "the batch is not all 10 images; use predict.dual": {"batch_size": 9},
    "the learning rate is not constant": {"schedule": "cosine"},
    "the learning rate is not constant; use predict.dual": {"warmup_steps": 3},
    "groups differ in rate or decay while some decay; use predict.dual": {**DECAY, **RATES},
    "groups differ in rate or decay while some decay": {**DECAY, "decay_groups": ("head",)},
}
NO_FLOW = {"weight decay has no closed flow here; use predict.dual": DECAY}


@dataclass(frozen=True)
class Row:
    """A Run, and what it must be."""

    make: Callable[..., Run]
    """(subject, recipe, task, record_every=…): for recipes as this one; of another task where one is given."""
    judge: Judge
    recipes: Mapping[str, Recipe]
    refused: Mapping[str, Mapping[str, Any]]
    """By message, settings that it refuses; or does not have."""
    family: tuple[Recipe, ...] = tuple(FAMILY)
    tolerance: float = 1e-9
    lengths: float | None = 1e-9
    """Tolerance of distances and norms; None where it does not give them."""
    model: Literal["none", "trained", "predicted"] = "none"
    """What model it gives."""
    resumed: Callable[[Subject, Recipe, Path], Trajectory] | None = None
    """The trajectory, by way of what was kept in a directory."""


def trained(network: str, refused: Mapping[str, Any]) -> Row:
    """A row of real training, of a network that the subject has."""

    def make(s: Subject, recipe: Recipe, task: linft.Task | None = None, **how: Any) -> Run:
        return linft.finetune(getattr(s, network), task or s.task, **how)

    def resumed(s: Subject, recipe: Recipe, path: Path) -> Trajectory:
        with checkpoints.open(path) as kept:
            make(s, recipe, record_every=10, checkpoints=kept, until=20)(recipe)
        with checkpoints.open(path) as kept:
            return make(s, recipe, record_every=10, checkpoints=kept)(recipe)

    return Row(make, sgd(network), TRAINED | ADAM, refused, tuple(FAMILY[:3]), model="trained", resumed=resumed)


def of(tangent: Callable[..., Any], run: Callable[..., Run], **kernel: Any) -> Callable[..., Run]:
    """A run of a tangent, or of the model and a task from which it makes one."""

    def make(s: Subject, recipe: Recipe, task: linft.Task | None = None, **how: Any) -> Run:
        if task is not None:
            return run(s.model, task, **kernel, **how)
        return run(s.tangent(tangent, recipe.decay_vectors, **kernel), **how)

    return make


def relinearized(s: Subject, recipe: Recipe, task: linft.Task | None = None, **how: Any) -> Run:
    return predict.relinearized(s.linear, task or s.task, after=17, **how)


def moving(s: Subject, recipe: Recipe, task: linft.Task | None = None, **how: Any) -> Run:
    return with_all_anchors(predict.moving(s.model, task or s.task, anchors=2, **how))


def explicit(at: Literal["network", "features"]) -> Callable[..., Run]:
    def make(s: Subject, recipe: Recipe, task: linft.Task | None = None, **how: Any) -> Run:
        return predict.explicit(s.model, task or s.task, at=at, rank=None, **how)

    return make


def from_file(run: Callable[..., Run]) -> Callable[[Subject, Recipe, Path], Trajectory]:
    def resumed(s: Subject, recipe: Recipe, path: Path) -> Trajectory:
        save(path / "tangent.safetensors", s.tangent(predict.tangent, recipe.decay_vectors))
        return run(load(path / "tangent.safetensors"), record_every=10)(recipe)

    return resumed


TANGENT, FEATURES = predict.tangent, predict.feature_tangent
LOW_RANK = some("L2-SP below a new head", "group rates and decay")

HEADS = pair(HEAD["the head alone"])

RUNS = {
    "finetune": trained("model", NO_GROUP),
    "finetune, linearized": trained("linear", NO_GROUP | NO_TRAINING_MODE),
    "finetune, features linearized": trained("linear_features", NO_GROUP | NO_TRAINING_MODE),
    "dual": Row(
        of(TANGENT, predict.dual), sgd("linear"), RECIPES, NO_KERNEL | NO_GROUP, (*FAMILY, *MORE),
        resumed=from_file(predict.dual),
    ),
    "dual, trace": Row(of(TANGENT, predict.dual, outputs="trace"), sgd("linear"), HEAD, NO_KERNEL, HEADS),
    "dual, pseudo": Row(
        of(TANGENT, predict.dual, outputs="pseudo", draws=2), sgd("linear"), HEAD, NO_KERNEL, HEADS
    ),
    "feature_dual": Row(of(FEATURES, predict.feature_dual), sgd("linear_features"), RECIPES, NO_KERNEL | NO_GROUP),
    "feature_dual, low-rank": Row(  # along all directions
        of(FEATURES, predict.feature_dual, outputs="low-rank", rank=5), sgd("linear_features"), LOW_RANK, NO_KERNEL
    ),
    "feature_dual, trace": Row(
        of(FEATURES, predict.feature_dual, outputs="trace", draws=2), sgd("linear_features"), HEAD, NO_KERNEL, HEADS
    ),
    "explicit": Row(
        explicit("network"), sgd("linear"), TRAINED | ADAM, NO_JACOBIAN | NO_GROUP,
        (*FAMILY, ADAM["AdamW, all at once"], ADAM["AdamW, all at once"].replace(learning_rate=0.01)),
    ),
    "explicit, features": Row(
        explicit("features"), sgd("linear_features"), TRAINED | ADAM, NO_JACOBIAN | NO_GROUP,
        pair(ADAM["AdamW, all at once"]),
    ),
    "relinearized, of a linear network": Row(
        relinearized, sgd("linear"), some("decay to the pretrained", DECOUPLED, "in order"), NO_KERNEL | NO_GROUP,
        pair(RECIPES[DECOUPLED]),
    ),
    "moving": Row(
        moving, moved, MOVED | ADAM, NO_JACOBIAN | NO_GROUP,
        pair(MOVED["all at once"]), model="predicted",
    ),
    "moving, by the Jacobian": Row(
        partial(moving, by="Jacobian"), moved, MOVED, NO_JACOBIAN | NO_GROUP,
        pair(MOVED["all at once"]), model="predicted",
    ),
    "spectral": Row(
        of(TANGENT, predict.spectral), sgd("linear"), FULL_BATCH,
        NO_KERNEL | NO_GROUP | NO_CLOSED_FORM | NO_OTHER_STEPS,
        (NESTEROV, HEAVY, PLAIN.replace(learning_rate=0.5)), lengths=1e-6, resumed=from_file(predict.spectral),
    ),
    "gradient_flow": Row(
        of(TANGENT, predict.gradient_flow), flow, FLOWS, NO_KERNEL | NO_GROUP | NO_FLOW | NO_OTHER_STEPS,
        tuple(FLOWS.values()), tolerance=1e-5, lengths=None, resumed=from_file(predict.gradient_flow),
    ),
}  # fmt: skip

BY_ALL = {"all at once", "AdamW, all at once", "L2-SP below a new head", "the head alone", *FLOWS, *FULL_BATCH}
BY_SOME = {
    *TRAINED, *HEAD, "Nesterov, warm-up", "step after warm-up", "decoupled, L2-SP, heavy ball", "clipped",
}  # fmt: skip
"""The recipes that have together what the others have one by one; the steps of all runs are those of these three."""


def often(name: str, recipe: str) -> bool:
    if name in ("finetune", "dual", "dual, trace"):
        return recipe in BY_ALL | BY_SOME
    return recipe in BY_ALL or (name.startswith("relinearized") and recipe == DECOUPLED)


@pytest.fixture(scope="module")
def subject(model, task, tangent, split_tangent, explicit) -> Subject:
    return Subject(model, task, explicit, {(predict.tangent, True): tangent, (predict.tangent, False): split_tangent})


@pytest.fixture(params=RUNS)
def row(request) -> Row:
    return RUNS[request.param]


def first(row: Row) -> Recipe:
    """One that is also held to the judge, whose program is there."""
    return next(recipe for name, recipe in row.recipes.items() if name in BY_ALL | {DECOUPLED})


def made(row: Row, s: Subject, recipe: Recipe, record_every: int | None = 10) -> Run:
    return row.make(s, recipe, record_every=record_every)


def assert_judged(row: Row, s: Subject, recipe: Recipe, found: Trajectory, record: np.ndarray) -> None:
    with np.errstate(over="ignore", invalid="ignore"):  # of a run that diverges
        expected = row.judge(s, recipe, record)
    got = {name: getattr(found, name) for name in CURVES} if row.lengths is None else values(found)
    kept = len(expected["train_loss"])
    assert found.diverged_at == (None if kept == len(record) else record[kept])
    np.testing.assert_array_equal(found.steps, record[:kept])
    tolerance = row.tolerance if found.diverged_at is None else 1e-6
    assert_same(got, expected, max(row.lengths or 0, tolerance))
    assert_same({name: got[name] for name in CURVES}, {name: expected[name] for name in CURVES}, tolerance)


CASES = [
    pytest.param(name, recipe, marks=[] if often(name, recipe) else pytest.mark.slow)
    for name, row in RUNS.items()
    for recipe in row.recipes
]


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_it_is_what_its_judge_says(subject, name, recipe):
    row, recipe = RUNS[name], RUNS[name].recipes[recipe]
    steps = recipe.num_steps(len(subject.task.y_train))
    every = max(10, steps // 5)
    found = made(row, subject, recipe, every)(recipe)
    assert_judged(row, subject, recipe, found, np.unique(np.append(np.arange(0, steps + 1, every), steps)))
    if not steps or recipe.frozen_groups == ("*",) or found.diverged_at is not None:
        return
    assert np.abs(found.train_loss / found.train_loss[0] - 1).max() > 1e-2, "a run that goes nowhere shows nothing"


def test_it_begins_at_the_model(subject, row):
    model, task = subject.model, subject.task
    recipe = first(row)
    found = made(row, subject, recipe, None)(recipe)
    for part, x, y in (("train", task.x_train, task.y_train), ("test", task.x_test, task.y_test)):
        logits = np.asarray(model.apply(model.params, model.preprocess(x)))
        one_hot = np.eye(3)[y]
        squared, entropy = ((logits - one_hot) ** 2).sum(1) / 2, -(jax.nn.log_softmax(logits) * one_hot).sum(1)
        expected = squared if recipe.loss == "squared_error" else entropy
        np.testing.assert_allclose(getattr(found, f"{part}_loss")[0], expected.mean(), rtol=1e-6)
        assert getattr(found, f"{part}_accuracy")[0] == np.mean(logits.argmax(1) == y)
    assert all(distance[0] == 0 for distance in found.distance.values())
    stages = {trees.layer_group(g) for g in found.distance}
    assert stages == (set() if row.lengths is None else set(model.stages))


def test_it_fills_a_trajectory(subject, row):
    """At step 0, every so many, and the last."""
    recipe = first(row)
    steps = recipe.num_steps(len(subject.task.y_train))
    found = made(row, subject, recipe, 7)(recipe)
    assert {f.name for f in fields(found)} >= {"steps", *CURVES, "distance", "norm", "seconds", "diverged_at", "model"}
    np.testing.assert_array_equal(found.steps, [*range(0, steps, 7), steps])
    for curve in jax.tree.leaves([getattr(found, name) for name in (*CURVES, "distance", "norm")]):
        assert isinstance(curve, np.ndarray) and curve.shape == found.steps.shape and np.isfinite(curve).all()
    assert found.distance.keys() == found.norm.keys()
    assert found.seconds > 0 and found.diverged_at is None and found.best is None
    assert (found.model is None) == (row.model == "none")
    if row.model == "trained":
        x = subject.model.preprocess(subject.task.x_test)
        right = np.asarray(found.model.apply(found.model.params, x)).argmax(1) == subject.task.y_test
        assert found.test_accuracy[-1] == pytest.approx(right.mean())
    with pytest.raises(LinftError, match="record_every is 0; it must be 1 or more"):
        made(row, subject, recipe, 0)(recipe)


def test_many_are_as_one_by_one(subject, row):
    run = made(row, subject, row.family[0])
    found = run.many(row.family)
    assert len({trajectory.train_loss[-1] for trajectory in found}) == len(row.family), "all differ"
    for recipe, trajectory in zip(row.family, found, strict=True):
        alone = run(recipe)
        np.testing.assert_array_equal(trajectory.steps, alone.steps)
        assert trajectory.diverged_at == alone.diverged_at
        assert_same(values(trajectory), values(alone), 1e-12)


@pytest.mark.parametrize("name", [name for name, row in RUNS.items() if row.resumed])
def test_what_was_kept_goes_on_to_the_same(subject, name, tmp_path):
    row = RUNS[name]
    recipe = first(row)
    assert row.resumed is not None
    assert_same(values(row.resumed(subject, recipe, tmp_path)), values(made(row, subject, recipe)(recipe)), 0)
    assert any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "message"), [(name, message) for name, row in RUNS.items() for message in row.refused]
)
def test_it_refuses_in_one_line(subject, name, message):
    row = RUNS[name]
    settings = row.refused[message]
    run = made(row, subject, first(row))
    with pytest.raises(LinftError, match=message) as error:
        run(row.family[0].replace(**settings))
    assert "\n" not in str(error.value)


def test_it_refuses_a_task_of_other_classes(subject, row):
    y = subject.task.y_train.copy()
    y[-1] = 3
    four = linft.Task.from_arrays(subject.task.x_train, y, subject.task.x_test, subject.task.y_test)
    with pytest.raises(LinftError, match=CLASSES):
        row.make(subject, first(row), four)(first(row))
