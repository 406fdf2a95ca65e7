"""The real run: what it trains, what it records, and that it does so again bit by bit."""

import dataclasses

import drawn
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linft
from linft.core import trees
from linft.core.base import Model, Trajectory
from linft.core.errors import LinftError
from linft.core.preprocessing import Preprocessing
from linft.core.recipe import Recipe
from linft.data.lazy import LazyImages
from linft.models import batch_norm
from linft.runtime import checkpoints

CURVES = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
RECIPE = Recipe(learning_rate=0.05, batch_size=8, steps=6)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3), strides=2, name="conv")(x)
        x = nn.tanh(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        return nn.Dense(10, name="head")(x.reshape(len(x), -1))


def make(dtype=jnp.float32) -> Model:
    variables = jax.jit(Net().init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    return linft.from_flax(Net(), jax.tree.map(lambda v: v.astype(dtype), variables), "head", (8, 8, 1))


@pytest.fixture(scope="module")
def model() -> Model:
    return make()


@pytest.fixture(scope="module")
def run(model, digits):
    return linft.finetune(model, digits)


@pytest.fixture(scope="module")
def trained(run) -> Trajectory:
    return run(RECIPE)


def assert_equal(got: Trajectory, expected: Trajectory) -> None:
    """Bit by bit, in curves and weights."""
    np.testing.assert_array_equal(got.steps, expected.steps)
    for name in CURVES:
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
    jax.tree.map(np.testing.assert_array_equal, got.distance, expected.distance)
    jax.tree.map(np.testing.assert_array_equal, got.model.params, expected.model.params)
    jax.tree.map(np.testing.assert_array_equal, got.model.batch_stats, expected.model.batch_stats)


def test_it_trains(trained):
    assert trained.steps.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert trained.train_loss[-1] < 0.9 * trained.train_loss[0] and trained.diverged_at is None


def test_a_run_repeats_bit_by_bit(run, trained, model, digits):
    """The same Run again, whose buffers were donated to the first, and another one."""
    before = jax.tree.map(np.array, model.params)
    assert_equal(run(RECIPE), trained)
    assert_equal(linft.finetune(model, digits)(RECIPE), trained)
    jax.tree.map(np.testing.assert_array_equal, model.params, before)
    assert np.abs(run(RECIPE.replace(seed=1)).train_loss - trained.train_loss)[1:].min() > 0


def test_a_hand_written_loop_gives_the_same(model, digits, trained):
    """Nesterov on the mean cross-entropy of each batch, without optax."""
    recipe = RECIPE.replace(steps=3)
    x, y = model.preprocess(digits.x_train), jnp.asarray(digits.y_train)

    def loss(params, chosen):
        return -jax.nn.log_softmax(model.apply(params, x[chosen]))[np.arange(len(chosen)), y[chosen]].mean()

    params, velocity = model.params, jax.tree.map(jnp.zeros_like, model.params)
    losses = [loss(params, np.arange(24))]
    for batch in recipe.batches(24):
        gradient = jax.grad(loss)(params, batch)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient)
        params = jax.tree.map(lambda w, v, g: w - 0.05 * (g + 0.9 * v), params, velocity, gradient)
        losses.append(loss(params, np.arange(24)))
    np.testing.assert_allclose(trained.train_loss[:4], losses, rtol=1e-5)
    got = linft.finetune(model, digits)(recipe)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got.model.params, params)
    for group in model.stages:
        squares = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), got.model.params[group], model.params[group])
        np.testing.assert_allclose(got.distance[group][-1], np.sqrt(sum(jax.tree.leaves(squares))), rtol=1e-5)


@pytest.mark.parametrize("at", ["logits", "features"])
def test_the_linearized_network_starts_as_the_real_one(model, digits, trained, at):
    linear = linft.finetune(linft.linearize(model, at=at), digits)(RECIPE)
    for name in CURVES:
        np.testing.assert_allclose(getattr(linear, name)[0], getattr(trained, name)[0], rtol=1e-6)
    assert linear.train_loss[-1] < 0.9 * linear.train_loss[0]
    assert abs(linear.train_loss[-1] - trained.train_loss[-1]) > 1e-5


def test_frozen_batch_norm_keeps_its_statistics(run, trained, model):
    jax.tree.map(np.testing.assert_array_equal, trained.model.batch_stats, model.batch_stats)
    assert (trained.model.params["norm"]["scale"] != model.params["norm"]["scale"]).all()
    in_training = run(RECIPE.replace(batch_norm="train"))
    for name, statistic in in_training.model.batch_stats["norm"].items():
        assert (statistic != model.batch_stats["norm"][name]).all()
    assert in_training.train_loss[0] == trained.train_loss[0]  # recorded in evaluation mode


@pytest.mark.parametrize(
    ("every", "steps", "expected"),
    [(1, 3, [0, 1, 2, 3]), (4, 6, [0, 4, 6]), (10, 6, [0, 6]), (None, 0, [0]), (None, 30, [*range(0, 31, 2)])],
)
def test_records_every_so_many_steps(model, digits, every, steps, expected):
    told = []
    run = linft.finetune(model, digits, record_every=every, progress=lambda *values: told.append(values))
    trajectory = run(RECIPE.replace(steps=steps))
    assert trajectory.steps.tolist() == expected
    assert [told_step for told_step, _, _ in told] == list(range(1, steps + 1))
    assert [total for _, total, _ in told] == [steps] * steps
    assert all(len(getattr(trajectory, name)) == len(expected) for name in CURVES)
    assert all(len(length) == len(expected) for by in (trajectory.distance, trajectory.norm) for length in by.values())


def test_distances_and_norms_are_those_of_the_weights(model, trained):
    for group in model.stages:
        before, after = (
            np.concatenate([x.ravel() for x in jax.tree.leaves(m.params[group])]) for m in (model, trained.model)
        )
        np.testing.assert_allclose(trained.distance[group][[0, -1]], [0, np.linalg.norm(after - before)], rtol=1e-6)
        np.testing.assert_allclose(
            trained.norm[group][[0, -1]], [np.linalg.norm(before), np.linalg.norm(after)], rtol=1e-6
        )


def test_a_diverging_run_is_cut_and_marked(run):
    diverging = run(RECIPE.replace(learning_rate=1e4, loss="squared_error"))
    assert diverging.diverged_at == 1 and diverging.steps.tolist() == [0]
    assert np.isfinite(diverging.train_loss).all() and len(diverging.distance["conv"]) == 1


def test_a_loss_that_is_not_finite_is_told_at_its_step(model, digits):
    """Between records too: the program says which minibatch it was."""

    def forward(params, batch_stats, x):
        logits, features = model.forward(params, batch_stats, x)
        return logits * jnp.where(jnp.abs(params["conv"]["kernel"]).max() > limit, jnp.nan, 1.0), features

    limit = 0.4
    largest = [
        np.abs(linft.finetune(model, digits)(RECIPE.replace(steps=k)).model.params["conv"]["kernel"]).max()
        for k in range(7)
    ]
    limit = float((largest[2] + largest[3]) / 2)
    assert largest[2] < limit < min(largest[3:])
    broken = linft.finetune(model.replace(forward=forward), digits, record_every=6)(RECIPE)
    assert broken.diverged_at == 4 and broken.steps.tolist() == [0]


def test_a_run_may_end_early(model, digits, trained):
    short = linft.finetune(model, digits, until=3)(RECIPE)
    assert short.steps.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(short.train_loss, trained.train_loss[:4])


@pytest.mark.parametrize("augmentation", ["crop_flip", pytest.param("resized_crop", marks=pytest.mark.slow)])
def test_streamed_images_train_as_those_in_memory(model, digits, augmentation):
    images = list(digits.x_train)
    lazy = digits.replace(x_train=LazyImages(images.__getitem__, np.arange(len(images))))
    recipe = RECIPE.replace(augmentation=augmentation, batch_norm="train")
    held, streamed = (linft.finetune(model, task)(recipe) for task in (digits, lazy))
    for name in CURVES:
        # Square images are held on smaller canvases than they are streamed on: a grey level may round otherwise.
        np.testing.assert_allclose(getattr(streamed, name), getattr(held, name), rtol=1e-4)
    assert held.train_loss[-1] != linft.finetune(model, digits)(RECIPE.replace(batch_norm="train")).train_loss[-1]


def test_reestimated_statistics_are_the_tasks_and_stay(model, digits):
    trained = linft.finetune(model, digits)(RECIPE.replace(batch_norm="reestimated"))
    expected = batch_norm.reestimated(model, digits.x_train)
    jax.tree.map(np.testing.assert_array_equal, trained.model.batch_stats, expected.batch_stats)
    assert (trained.model.batch_stats["norm"]["mean"] != model.batch_stats["norm"]["mean"]).all()


def test_delta_holds_feature_maps(model, digits):
    recipe = RECIPE.replace(steps=8)
    held, free = (linft.finetune(model, digits)(recipe.replace(delta=delta)) for delta in (5.0, 0.0))
    x = model.preprocess(digits.x_train)

    def moved(trained):
        """Mean squared distance of the maps from the pretrained ones."""
        before, after = (
            m.module.apply({"params": m.params, "batch_stats": m.batch_stats}, x, capture_intermediates=True)[1]
            for m in (model, trained.model)
        )
        of = [np.asarray(m["intermediates"]["conv"]["__call__"][0]) for m in (before, after)]
        return np.mean((of[1] - of[0]) ** 2)

    assert moved(held) < 0.5 * moved(free)


def test_a_run_goes_on_from_its_checkpoints(model, digits, tmp_path):
    recipe = RECIPE.replace(batch_norm="train", augmentation="crop_flip", schedule="cosine")
    whole = linft.finetune(model, digits, record_every=2)(recipe)
    with checkpoints.open(tmp_path) as kept:
        linft.finetune(model, digits, record_every=2, checkpoints=kept, until=4)(recipe)
    with checkpoints.open(tmp_path) as kept:
        resumed = linft.finetune(model, digits, record_every=2, checkpoints=kept)(recipe)
    assert_equal(resumed, whole)
    best = int(np.argmax(whole.test_accuracy))
    again = linft.finetune(model, digits, record_every=2, until=int(whole.steps[best]))(recipe)
    jax.tree.map(np.testing.assert_array_equal, resumed.best.params, again.model.params)


def test_recipes_of_one_structure_share_a_program(model, digits):
    traced = []

    def forward(*args):
        traced.append(1)
        return model.forward(*args)

    run = linft.finetune(model.replace(forward=forward), digits)
    run(RECIPE)
    first = len(traced)
    numbers = {"learning_rate": 0.01, "momentum": 0.5, "seed": 4, "schedule": "cosine", "warmup_steps": 2,
               "weight_decay": 0.1, "rate_multipliers": (("conv", 0.1),), "frozen_groups": ("norm",),
               "shuffle": False}  # fmt: skip
    run.many([RECIPE.replace(**{name: value}) for name, value in numbers.items()])
    assert len(traced) == first
    run(RECIPE.replace(nesterov=False))
    assert len(traced) == first + 1


def test_frozen_groups_stay(run, model):
    frozen = run(RECIPE.replace(frozen_groups=("conv", "norm"), weight_decay=0.1))
    for group in ("conv", "norm"):
        jax.tree.map(np.testing.assert_array_equal, frozen.model.params[group], model.params[group])
        assert (frozen.distance[group] == 0).all()
    assert frozen.distance["head"][-1] > 0


def test_adam_and_clipping(run, trained):
    """The first step of Adam moves every weight by the rate; a clipped one by the rate times the clip."""
    adam = run(RECIPE.replace(optimizer="adam", learning_rate=0.01))
    count = trees.count(adam.model.params["head"])
    np.testing.assert_allclose(adam.distance["head"][1], 0.01 * np.sqrt(count), rtol=1e-3)
    assert adam.train_loss[-1] < 0.9 * adam.train_loss[0]
    clipped = run(RECIPE.replace(clip_norm=0.01, momentum=0.0))
    moved = np.sqrt(sum(distance[1] ** 2 for distance in clipped.distance.values()))
    np.testing.assert_allclose(moved, 0.05 * 0.01, rtol=1e-4)


def test_augmentation_is_seeded(run):
    """On the full batch in a fixed order nothing but the augmentation is random."""
    plain = RECIPE.replace(batch_size=None, shuffle=False, steps=2)
    augmented = plain.replace(augmentation="crop_flip")
    first = run(augmented)
    assert_equal(run(augmented), first)
    others = run.many([augmented.replace(seed=1), plain])
    for other in others:
        assert abs(other.train_loss[1] - first.train_loss[1]) > 1e-6
    assert_equal(run(plain.replace(seed=1)), others[1])


OTHERS = {"batch_norm": "train", "augmentation": "flip", "nesterov": False}


@pytest.mark.parametrize("settings", [{}, pytest.param(OTHERS, marks=pytest.mark.slow)])
def test_several_steps_a_call_as_on_accelerators(x64, monkeypatch, digits, settings):
    run = linft.finetune(make(jnp.float64), digits, record_every=20)
    recipe = RECIPE.replace(steps=20, **settings)  # in calls of 16 and 4
    one_by_one = run(recipe)
    monkeypatch.setattr("linft.training.finetune.jax.default_backend", lambda: "gpu")
    scanned = run(recipe)
    for name in CURVES:
        np.testing.assert_allclose(getattr(scanned, name), getattr(one_by_one, name), rtol=1e-9)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), scanned.model.params, one_by_one.model.params
    )
    jax.tree.map(np.testing.assert_allclose, scanned.model.batch_stats, one_by_one.model.batch_stats)


def test_refuses(model, digits, run):
    with pytest.raises(
        LinftError, match=r"the model has 3 outputs and the task 10 classes; use model.with_head\(10, …"
    ):
        linft.finetune(model.with_head(3, jax.random.key(0)), digits)
    with pytest.raises(LinftError, match="no layer group matches 'stage1'; this model has conv, head, norm"):
        run(RECIPE.replace(frozen_groups=("stage1",)))
    broken = model.replace(params=trees.put(model.params, "head/bias", jnp.full(10, jnp.nan)))
    with pytest.raises(LinftError, match="the loss is not finite before the first step; check the model's weights"):
        linft.finetune(broken, digits)(RECIPE)


class Normed(nn.Module):
    """Features divided by their norm, which has no derivative where they are all zero."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(4, use_bias=False, name="hidden")(x.reshape(len(x), -1)))
        return nn.Dense(10, name="head")(x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-6))


@pytest.mark.parametrize("at", ["logits", "features"])
def test_an_image_without_a_derivative_is_named(digits, at):
    """A ReLU stops its gradient, so that the network itself trains; the linearized one cannot begin."""
    black = dataclasses.replace(digits, x_train=np.where(np.arange(24)[:, None, None, None] == 4, 0, digits.x_train))
    model = drawn.make(Normed()).replace(preprocessing=Preprocessing((8, 8, 1), (0.0,), (1.0,)))
    assert linft.finetune(model, black)(RECIPE).diverged_at is None
    cause = "the weights are finite, and the logits of training image 4 are not: .*, if linearized, its derivative"
    with pytest.raises(LinftError, match=f"the loss is not finite before the first step; {cause}"):
        linft.finetune(linft.linearize(model, at=at), black)(RECIPE)
    with pytest.raises(LinftError, match=r"the Jacobian-vector product is not finite at image 4, .*no finite"):
        linft.predict.tangent(model, black)
