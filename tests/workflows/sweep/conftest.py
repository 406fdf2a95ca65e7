"""What tests of sweeps share: a small network's kernel on a few digits, and quick runs from it."""

from collections.abc import Iterator

import jax
import pytest
from drawn import make
from swept import Net

import linft
from linft.core.base import OneByOne


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
