"""What tests of sweeps share: a small network's kernel on a few digits, and quick runs from it."""

import jax
import pytest

import linft
from linft.base import OneByOne

BASE = linft.Recipe(learning_rate=0.01, batch_size=None, steps=20, loss="squared_error")
"""That the closed form runs, too."""


@pytest.fixture(scope="session")
def model() -> linft.Model:
    return linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=4)


@pytest.fixture(scope="session")
def tangent(model, digits) -> linft.Tangent:
    return linft.predict.tangent(model, digits)


@pytest.fixture(scope="session")
def spectral(tangent) -> OneByOne:
    """A run of one recipe at a time, which needs no compilation."""
    return linft.predict.spectral(tangent)  # pyright: ignore
