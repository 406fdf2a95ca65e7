"""What the prediction tests share: float64, one small network, one task of real digits, its tangents."""

import contextlib
import dataclasses
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import judges
import numpy as np
import pytest

import linft
from linft.core import trees


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Float64, so that laws hold to its rounding."""
    before = jax.config.values["jax_enable_x64"]
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


@pytest.fixture(scope="module", autouse=True)
def in_float64() -> Iterator[None]:
    with float64():
        yield


class Net(nn.Module):
    """A convolution, a norm, a hidden layer and a head."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(3, (3, 3), strides=2, name="conv")(x)
        x = nn.tanh(nn.BatchNorm(use_running_average=True, name="norm")(x))
        x = nn.tanh(nn.Dense(5, name="hidden")(x.reshape(len(x), -1)))
        return nn.Dense(3, name="head")(x)


@pytest.fixture(scope="session")
def task() -> linft.Task:
    """The digits 0, 1 and 2: 10 to train on and 6 to test."""
    digits = linft.load_task("digits")
    keep, test = digits.y_train < 3, digits.y_test < 3
    parts = digits.x_train[keep], digits.y_train[keep], digits.x_test[test], digits.y_test[test]
    return linft.Task.from_arrays(*parts, name="three digits").subset(10, 6, seed=0)


@pytest.fixture(scope="session")
@float64()
def model() -> linft.Model:
    variables = jax.jit(Net().init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    rng = np.random.default_rng(1)  # nothing left at its initial value; squared, since variances are among them
    variables = jax.tree.map(lambda v: jnp.asarray(v + rng.normal(0, 0.2, v.shape) ** 2), variables)
    return linft.from_flax(Net(), variables, "head", (8, 8, 1))


@pytest.fixture(scope="session")
@float64()
def tangent(model, task) -> linft.Tangent:
    return linft.predict.tangent(model, task)


@pytest.fixture(scope="session")
@float64()
def split_tangent(model, task) -> linft.Tangent:
    """With kernels and vectors apart."""
    return linft.predict.tangent(model, task, groups=trees.split_vectors(model.stages))


@pytest.fixture(scope="session")
@float64()
def two_classes(model, task) -> linft.Tangent:
    """Of a probe head for two classes, whose two columns are each other's opposite."""
    keep, test = task.y_train < 2, task.y_test < 2
    two = dataclasses.replace(task, x_train=task.x_train[keep], y_train=task.y_train[keep], x_test=task.x_test[test],
                              y_test=task.y_test[test], class_names=task.class_names[:2])  # fmt: skip
    return linft.predict.tangent(model.with_head(2, init="probe", task=two), two)


@pytest.fixture(scope="session")
@float64()
def explicit(model, task) -> judges.Explicit:
    """The linearized network as plain arrays."""
    return judges.explicit(model, task)
