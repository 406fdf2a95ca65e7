"""What tests of sweeps share: a small network's kernel on a few digits, and quick runs from it."""

from collections.abc import Iterator

import flax.linen as nn
import jax
import pytest
from drawn import make

import linft
from linft.base import OneByOne

BASE = linft.Recipe(learning_rate=0.01, batch_size=None, steps=20, loss="squared_error")
"""That the closed form runs, too."""


class Net(nn.Module):
    """A convolution, a hidden layer and a head."""

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Conv(4, (3, 3), strides=2, name="conv")(x))
        x = nn.tanh(nn.Dense(6, name="hidden")(x.reshape(len(x), -1)))
        return nn.Dense(10, name="head")(x)


@pytest.fixture(scope="module", autouse=True)
def quick_compiler() -> Iterator[None]:
    """XLA without its optimizations: compiling takes nearly all of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def model() -> linft.Model:
    return make(Net())


@pytest.fixture(scope="session")
def tangent(model, digits) -> linft.Tangent:
    return linft.predict.tangent(model, digits)


@pytest.fixture(scope="session")
def spectral(tangent) -> OneByOne:
    """A run of one recipe at a time, which needs no compilation of its own."""
    return linft.predict.spectral(tangent, record_every=10)  # pyright: ignore
