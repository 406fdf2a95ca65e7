"""What the kernel tests share."""

import jax
import jax.numpy as jnp
import pytest

import linft
from linft.core.base import Model
from linft.core.preprocessing import Preprocessing


@pytest.fixture(scope="session")
def model() -> Model:
    """A narrow residual network with three outputs."""
    images = Preprocessing((8, 8, 3))
    return linft.models.create("resnet18", 3, jax.random.key(0), images, blocks=(1,), width=8)


@pytest.fixture(scope="session")
def images(digits) -> jax.Array:
    """24 digits as the narrow network takes them."""
    resized = jax.image.resize(jnp.asarray(digits.x_train, jnp.float32) / 255, (24, 8, 8, 1), "linear")
    return jnp.broadcast_to(resized, (24, 8, 8, 3)) - 0.5
