"""What `feature_dual` takes and refuses; that the head stays exact stands in test_runs.py."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from replayed import CE, DECAY, RECIPES, assert_same, values

import linft
from linft import predict
from linft.core.base import Kernel
from linft.core.errors import LinftError


@pytest.fixture(scope="module")
def whole(model, task) -> predict.FeatureTangent:
    return predict.feature_tangent(model, task)


def test_a_group_may_hold_the_head_and_layers_below_it(model, task):
    joined = model.replace(layer_groups={"low": ("conv", "norm"), "rest": ("hidden", "head")})
    recipe = CE.replace(rate_multipliers=(("rest", 2.0),), **DECAY)
    replayed = predict.feature_dual(joined, task, record_every=10)(recipe)
    real = linft.finetune(linft.linearize(joined, at="features"), task, record_every=10)(recipe)
    assert_same(values(replayed), values(real))


def test_it_is_not_the_network_with_linear_logits(whole, tangent):
    recipe = RECIPES["Nesterov, cosine"]
    runs = predict.feature_dual(whole, record_every=10), predict.dual(tangent, record_every=10)
    of_features, of_logits = (run(recipe).train_loss for run in runs)
    assert np.abs(of_features - of_logits).max() > 1e-3


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
