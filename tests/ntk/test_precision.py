"""Weights of any floating type: kernels, predictions and training are those of the same numbers in float64."""

from collections.abc import Callable
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linft
from linft import predict
from linft.core.base import Model
from linft.ntk.matrix_free.operator import kernel_operator
from linft.ntk.projected import projected_ntk

RECIPE = linft.Recipe(learning_rate=0.02, batch_size=4, steps=3, weight_decay=0.01)
TYPES = ("float16", "bfloat16", "float32", "float64")


class Net(nn.Module):
    """A convolution, a norm and a head."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Conv(3, (3, 3), strides=2, name="conv")(x)
        x = nn.tanh(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        return nn.Dense(3, name="head")(x.reshape(len(x), -1))


@pytest.fixture(scope="module")
def task() -> linft.Task:
    """The digits 0, 1 and 2."""
    digits = linft.load_task("digits")
    keep, test = digits.y_train < 3, digits.y_test < 3
    parts = digits.x_train[keep], digits.y_train[keep], digits.x_test[test], digits.y_test[test]
    return linft.Task.from_arrays(*parts).subset(8, 4, seed=0)


@cache
def variables() -> dict:
    """Drawn once: the program that draws is most of what there is to compile."""
    drawn = jax.jit(Net().init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1), jnp.float32))
    return jax.tree.map(np.asarray, drawn)


def of_type(dtype: str) -> Model:
    """The network at weights that every type can hold."""
    held = jax.tree.map(lambda v: jnp.asarray(v).astype("float16").astype("bfloat16").astype(dtype), variables())
    return linft.from_flax(Net(), held, "head", (8, 8, 1))


WAYS = {
    "kernel": lambda model, task: linft.empirical_ntk(model, model.preprocess(task.x_train)).total(),
    "kernel of other images": lambda model, task: linft.empirical_ntk(
        model, jnp.asarray(model.preprocess(task.x_train), float), outputs="trace"
    ).total(),
    "projected": lambda model, task: projected_ntk(model, model.preprocess(task.x_train), dimensions=64)[0].total(),
    "matrix-free": lambda model, task: kernel_operator(model, model.preprocess(task.x_train)) @ np.ones(24),
    "dual": lambda model, task: predict.dual(model, task)(RECIPE).train_loss,
    "dual, decoupled": lambda model, task: (
        predict.dual(model, task, outputs="trace")(RECIPE.replace(convention="decoupled")).train_loss
    ),
    "features": lambda model, task: predict.feature_dual(model, task)(RECIPE).train_loss,
    "relinearized": lambda model, task: predict.relinearized(model, task, after=1)(RECIPE).train_loss,
    "finetune": lambda model, task: linft.finetune(model, task)(RECIPE).train_loss,
    "finetune, training mode, Adam, mixup": lambda model, task: linft.finetune(model, task)(
        RECIPE.replace(batch_norm="train", optimizer="adam", mixup=0.2, clip_norm=1.0)
    ).train_loss[:1],  # mixed by draws that differ from type to type
    "linearize": lambda model, task: linft.finetune(linft.linearize(model), task)(RECIPE).train_loss,
    "stability": lambda model, task: predict.stability(predict.tangent(model, task), RECIPE).worst_batch_h,
}


SLOW = ("dual, decoupled", "features", "relinearized")


EVERY_TYPE = ("kernel", "finetune")
"""Ways that are tried with weights of every type; the others with the least of them, as a rule."""


def often(way: str, dtype: str) -> bool:
    return way not in SLOW and (dtype == "bfloat16" or way in EVERY_TYPE)


CASES = [
    pytest.param(way, dtype, marks=[] if often(way, dtype) else pytest.mark.slow)
    for way in WAYS
    for dtype in TYPES[:-1]
]


@pytest.fixture(scope="module")
def exact(task: linft.Task) -> Callable[[str], np.ndarray]:
    """What a way comes to in float64, once."""
    return cache(lambda way: np.asarray(WAYS[way](of_type("float64"), task)))


@pytest.mark.parametrize(("way", "dtype"), CASES)
def test_weights_of_any_type(x64, task, exact, way, dtype):
    expected = exact(way)
    assert expected.dtype == np.float64
    found = np.asarray(WAYS[way](of_type(dtype), task), np.float64)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5 * np.abs(expected).max())


def assert_images_follow(task: linft.Task, dtype: str, wanted: str) -> None:
    model = of_type(dtype)
    assert model.preprocess(task.x_train).dtype == model.dtype == wanted
    assert {leaf.dtype for leaf in jax.tree.leaves((model.params, model.batch_stats))} == {np.dtype(wanted)}
    assert model.logits_of(task.x_train).dtype == wanted
    assert model.with_head(4, jax.random.key(0)).dtype == wanted


@pytest.mark.parametrize("dtype", TYPES)
def test_images_are_of_the_type_of_the_weights(x64, task, dtype):
    assert_images_follow(task, dtype, "float64" if dtype == "float64" else "float32")


@pytest.mark.parametrize("dtype", TYPES[:-1])
def test_images_are_of_the_type_of_the_weights_without_float64(task, dtype):
    assert_images_follow(task, dtype, "float32")
