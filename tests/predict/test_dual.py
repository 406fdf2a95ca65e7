"""Dual replays the linearized network's training exactly: against real training of it, and against plain NumPy."""

import dataclasses

import jax
import numpy as np
import pytest
from replayed import CE, CURVES, DECAY, RATES, RECIPES, SE, assert_same, values

import linft
from linft import predict
from linft.core.base import Trajectory
from linft.core.errors import LinftError
from linft.core.layer_settings import LayerSettings
from linft.core.recipe import Recipe
from linft.training import optimizer


def sgd(explicit, recipe: Recipe, record: np.ndarray) -> dict[str, np.ndarray]:
    """The training of f = f0 + J (w − w0), written out."""
    f0, jacobian, w0, groups, is_vector, labels, n = explicit
    one_hot = np.eye(f0.shape[1])[labels]
    squared = recipe.loss == "squared_error"
    multiplier = np.array([recipe.multiplier(g) for g in groups])
    decay, pull = np.array([recipe.decay(g) for g in groups]).T
    decay, towards = decay * (recipe.decay_vectors | ~is_vector), pull * w0
    apart, ahead = recipe.convention == "decoupled", recipe.momentum * recipe.nesterov
    w, velocity, rows = w0.copy(), 0 * w0, []
    for step, rate in enumerate([*recipe.rates(n), None]):
        f = f0 + jacobian @ (w - w0)
        p = np.exp(f) / np.exp(f).sum(1, keepdims=True)
        if step in record:
            each = ((f - one_hot) ** 2).sum(1) / 2 if squared else -np.log((p * one_hot).sum(1))
            right = f.argmax(1) == labels
            lengths = {
                f"{name} {g}": np.linalg.norm(of[groups == g])
                for name, of in (("distance", w - w0), ("norm", w))
                for g in dict.fromkeys(groups)
            }
            rows.append([each[:n].mean(), each[n:].mean(), right[:n].mean(), right[n:].mean(), *lengths.values()])
        if rate is None:
            return dict(zip((*CURVES, *lengths), np.transpose(rows), strict=True))
        batch = recipe.batches(n)[step]
        residual = ((f if squared else p) - one_hot)[batch] / len(batch)
        gradient = np.einsum("bc,bcp->p", residual, jacobian[batch])
        if apart:  # w is where the gradient is taken, ahead of the paper's weights
            behind = w + ahead * velocity
            velocity = recipe.momentum * velocity + rate * multiplier * gradient
            w = behind - velocity - rate * multiplier * decay * (behind - towards) - ahead * velocity
            continue
        gradient += decay * (w - towards)
        velocity = recipe.momentum * velocity + gradient
        update = gradient + recipe.momentum * velocity if recipe.nesterov else velocity
        w = w - rate * multiplier * update


@pytest.fixture(scope="module")
def train(model, task):
    """The linearized network, really trained."""
    return linft.finetune(linft.linearize(model), task, record_every=10)


PARTS = {  # of what other recipes have together
    "no momentum, full batch", "heavy ball, step", "Nesterov, cosine", "Nesterov, warm-up", "step after warm-up",
    "decoupled, decay to zero", "decay of kernels to zero", "decay of kernels to the pretrained", "group rates",
    "frozen groups",
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in PARTS else n for n in RECIPES])
def test_dual_is_the_training_of_the_linearized_network(train, tangent, split_tangent, explicit, name):
    recipe = RECIPES[name]
    replayed = predict.dual(tangent if recipe.decay_vectors else split_tangent, record_every=10)(recipe)
    expected = sgd(explicit, recipe, replayed.steps)
    assert expected["train_loss"][-1] < 0.9 * expected["train_loss"][0]
    assert_same(values(replayed), expected)
    assert_same(values(train(recipe)), expected)


def test_record_every_step_and_none(tangent, model, explicit):
    recipe = CE.replace(steps=6)
    replayed = predict.dual(tangent, record_every=1)(recipe)
    np.testing.assert_array_equal(replayed.steps, np.arange(7))
    assert_same(values(replayed), sgd(explicit, recipe, replayed.steps))
    start = predict.dual(tangent)(CE.replace(steps=0))
    np.testing.assert_array_equal(start.steps, [0])
    assert_same(values(start), {name: curve[:1] for name, curve in values(replayed).items()})


def test_step_0_is_the_model(model, task, tangent):
    start = predict.dual(tangent)(CE)
    logits = np.asarray(model.apply(model.params, model.preprocess(task.x_test)))
    expected = -jax.nn.log_softmax(logits)[np.arange(6), task.y_test].mean()
    np.testing.assert_allclose(start.test_loss[0], expected, rtol=1e-12)
    assert start.test_accuracy[0] == np.mean(logits.argmax(1) == task.y_test)
    assert all(distance[0] == 0 for distance in start.distance.values())


DIVERGING = CE.replace(learning_rate=1e4, loss="squared_error")
FAMILY = [  # of one structure, but for the last two
    SE,
    SE.replace(learning_rate=0.01, momentum=0.5),
    DIVERGING,
    SE.replace(seed=7),
    SE.replace(**RATES, **DECAY),
    SE.replace(shuffle=False, batch_size=10),
    RECIPES["decay to the pretrained"],
    CE.replace(steps=20),
]


@pytest.fixture(scope="module")
def family(tangent) -> list[Trajectory]:
    return predict.dual(tangent, record_every=10).many(FAMILY)


@pytest.mark.parametrize("i", range(len(FAMILY)))
def test_many_are_as_one_by_one(tangent, explicit, family, i):
    alone = predict.dual(tangent, record_every=10)(FAMILY[i])
    assert_same(values(family[i]), values(alone), 1e-12)
    np.testing.assert_array_equal(family[i].steps, alone.steps)
    assert family[i].diverged_at == alone.diverged_at
    if FAMILY[i] is not DIVERGING:
        assert alone.diverged_at is None and alone.steps[-1] == FAMILY[i].steps
        assert_same(values(family[i]), sgd(explicit, FAMILY[i], alone.steps))


def test_seeds_of_one_family_differ(family):
    assert abs(family[0].train_loss[-1] - family[3].train_loss[-1]) > 1e-4


def test_a_diverging_run_is_cut_where_training_is(train, tangent):
    """At the same recorded step, though the replay stands still from the batch on that shows it."""
    for recipe in (DIVERGING, SE.replace(learning_rate=3.0, batch_size=None)):
        replayed, real = predict.dual(tangent, record_every=10)(recipe), train(recipe)
        assert replayed.diverged_at == real.diverged_at is not None
        np.testing.assert_array_equal(replayed.steps, real.steps)
        assert all(np.isfinite(curve).all() for curve in values(replayed).values())
        assert_same(values(replayed), values(real), 1e-6)


def test_a_model_and_its_task_are_as_their_tangent(model, task, tangent):
    recipe = SE.replace(steps=5)
    assert_same(values(predict.dual(model, task)(recipe)), values(predict.dual(tangent)(recipe)), 0)


UNPREDICTABLE = {
    "batch norm in training mode changes the network as it trains": {"batch_norm": "train"},
    "augmented images are not the images of the kernel": {"augmentation": "flip"},
    "clipping is not linear in the gradient": {"clip_norm": 1.0},
    "Adam is not linear in the gradient": {"optimizer": "adam"},
}


def test_says_why_not_and_what_is_nearest(tangent):
    assert predict.why_not(CE) is None
    assert predict.nearest(CE) == (CE, "")
    for reason, settings in UNPREDICTABLE.items():
        recipe = CE.replace(**settings)
        assert predict.why_not(recipe) == reason
        ((name, value),) = settings.items()
        assert predict.nearest(recipe) == (CE, f"dropped: {name}={value}")
        with pytest.raises(LinftError, match=f"no kernel predicts this recipe: {reason}; use predict.nearest"):
            predict.dual(tangent).many([CE, recipe])
    both = CE.replace(optimizer="adam", augmentation="flip")
    assert (
        predict.why_not(both) == "Adam is not linear in the gradient; augmented images are not the images of the kernel"
    )
    assert predict.nearest(both) == (CE, "dropped: optimizer=adam, augmentation=flip")


def test_refuses(model, task, tangent):
    with pytest.raises(LinftError, match="a Tangent carries its task and kernel already; pass it alone"):
        predict.dual(tangent, task)
    with pytest.raises(LinftError, match="a Tangent carries its task and kernel already; pass it alone"):
        predict.dual(tangent, outputs="trace")
    with pytest.raises(LinftError, match="pass a model and a task, or a Tangent alone"):
        predict.dual(model)
    other = dataclasses.replace(task, class_names=(*task.class_names, "3"))
    with pytest.raises(LinftError, match=r"3 outputs and the task 4 classes; use model.with_head\(4, …\)"):
        predict.dual(model, other)
    with pytest.raises(LinftError, match="no layer group matches 'stage1'; this model has conv, norm, hidden, head"):
        predict.dual(tangent)(CE.replace(frozen_groups=("stage1",)))
    with pytest.raises(LinftError, match="decay_vectors=False needs groups split into kernels and vectors"):
        predict.dual(tangent)(CE.replace(**DECAY, decay_vectors=False))
    with pytest.raises(LinftError, match="record_every is 0; it must be 1 or more"):
        predict.dual(tangent, record_every=0)(CE)
    with pytest.raises(LinftError, match="the loss is not finite before the first step"):
        predict.dual(tangent.replace(logits_train=tangent.logits_train * np.nan))(CE)


def test_half_a_stage_at_another_rate():
    """One block of a stage low and held, the other not: the kernel's groups are those, and the runs agree."""
    task = linft.load_task("digits").subset(12, 6)
    model = linft.models.create("cifar_resnet14", 10, jax.random.key(0), width=2)
    base = Recipe(learning_rate=1e-3, batch_size=4, steps=5, l2sp=0.1, weight_decay=0.1)
    recipe = LayerSettings(low_rate=1e-4, low_groups=2, l2sp_lowest=4).apply(base, model.layer_groups)
    tangent = linft.predict.tangent(model, task, groups=optimizer.kernel_groups(model.layer_groups, recipe))
    cut = ("stage1.block0", "stage1.block1", "stage2.block0", "stage2.block1")
    assert tangent.groups == ("stem", *cut, "stage3", "head")
    expected, got = linft.finetune(linft.linearize(model), task)(recipe), linft.predict.dual(tangent)(recipe)
    np.testing.assert_allclose(got.train_loss, expected.train_loss, rtol=1e-4)
    squares = sum(got.distance[f"stage1.block{i}"] ** 2 for i in range(2))
    np.testing.assert_allclose(squares**0.5, expected.distance["stage1"], rtol=1e-2)
