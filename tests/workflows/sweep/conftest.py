"""What tests of sweeps share: a small network's kernel on a few digits, and quick runs from it."""

import pytest
from drawn import make
from swept import Net

import linft
from linft.core.base import OneByOne


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
