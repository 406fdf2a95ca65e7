"""The features' kernel replays exactly the training of the network whose features alone are linearized."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from replayed import CE, DECAY, RATES, RECIPES, SE, assert_same, values

import linft
from linft import predict
from linft.core import trees
from linft.core.base import Kernel
from linft.core.errors import LinftError


@pytest.fixture(scope="module")
def train(model, task):
    """The network with its features linearized, really trained."""
    return linft.finetune(linft.linearize(model, at="features"), task, record_every=10)


@pytest.fixture(scope="module")
def whole(model, task) -> predict.FeatureTangent:
    return predict.feature_tangent(model, task)


@pytest.fixture(scope="module")
def split(model, task) -> predict.FeatureTangent:
    return predict.feature_tangent(model, task, groups=trees.split_vectors(model.stages))


OFTEN = {
    "no momentum, full batch", "Nesterov, cosine", "decay to the pretrained", "L2-SP below a new head", "all at once",
    "group rates and decay", "decoupled, L2-SP, heavy ball", "decoupled, group rates and decay",
}  # fmt: skip


@pytest.mark.parametrize("name", [n if n in OFTEN else pytest.param(n, marks=pytest.mark.slow) for n in RECIPES])
def test_it_is_the_training_of_the_network_with_linear_features(train, whole, split, tangent, name):
    recipe = RECIPES[name]
    replayed = predict.feature_dual(whole if recipe.decay_vectors else split, record_every=10)(recipe)
    assert_same(values(replayed), values(train(recipe)))
    if name == "Nesterov, cosine":  # and not that of the network with linear logits
        assert np.abs(replayed.train_loss - predict.dual(tangent, record_every=10)(recipe).train_loss).max() > 1e-3


def test_a_group_may_hold_the_head_and_layers_below_it(model, task):
    joined = model.replace(layer_groups={"low": ("conv", "norm"), "rest": ("hidden", "head")})
    recipe = CE.replace(rate_multipliers=(("rest", 2.0),), **DECAY)
    replayed = predict.feature_dual(joined, task, record_every=10)(recipe)
    real = linft.finetune(linft.linearize(joined, at="features"), task, record_every=10)(recipe)
    assert_same(values(replayed), values(real))


DIVERGING = SE.replace(learning_rate=1e3)
FAMILY = [SE, SE.replace(learning_rate=0.01, momentum=0.5), DIVERGING, SE.replace(seed=7), SE.replace(**RATES)]


def test_many_are_as_one_by_one(whole):
    run = predict.feature_dual(whole, record_every=10)
    for recipe, found in zip(FAMILY, run.many(FAMILY), strict=True):
        alone = run(recipe)
        assert_same(values(found), values(alone), 1e-12)
        assert found.diverged_at == alone.diverged_at
        assert (found.diverged_at is None) == (recipe is not DIVERGING)


def test_along_all_directions_a_low_rank_is_the_whole(model, task, whole):
    low = predict.feature_tangent(model, task, outputs="low-rank", rank=5)
    assert low.directions.shape == (5, 5) and jnp.abs(low.directions - jnp.eye(5)).max() > 0.1
    recipe = RECIPES["L2-SP below a new head"]
    assert_same(values(predict.feature_dual(low)(recipe)), values(predict.feature_dual(whole)(recipe)))


def test_a_trace_stands_for_itself_times_the_identity(model, task, whole):
    trace = predict.feature_tangent(model, task, outputs="trace", draws=3)

    def dense(kernel: Kernel) -> Kernel:
        blocks = {g: b[:, None, :, None] * jnp.eye(5)[None, :, None, :] for g, b in kernel.blocks.items()}
        return Kernel(blocks, "full")

    projected = trace.projected
    same = projected.replace(kernel_train=dense(projected.kernel_train), kernel_test=dense(projected.kernel_test))
    recipe = RECIPES["group rates and decay"]
    expected = values(predict.feature_dual(dataclasses.replace(trace, projected=same))(recipe))
    assert_same(values(predict.feature_dual(trace)(recipe)), expected)


def test_refuses(model, task, whole):
    with pytest.raises(LinftError, match="a FeatureTangent carries its task and kernel already; pass it alone"):
        predict.feature_dual(whole, task)
    with pytest.raises(LinftError, match="pass a model and a task, or a FeatureTangent alone"):
        predict.feature_dual(model)
    with pytest.raises(LinftError, match="no kernel predicts this recipe: Adam is not linear in the gradient"):
        predict.feature_dual(whole)(CE.replace(optimizer="adam"))
    with pytest.raises(LinftError, match="no layer group matches 'stage1'; this model has conv, norm, hidden, head"):
        predict.feature_dual(whole)(CE.replace(frozen_groups=("stage1",)))
