"""Augmentation mirrors and shifts images, each with a key of its own, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linft.data.augment import AUGMENTATIONS, augment
from linft.errors import LinftError


@pytest.fixture(scope="module")
def images(digits):
    """256 copies of one digit of 8×8 pixels."""
    return jnp.repeat(jnp.asarray(digits.x_train[:1]), 256, axis=0)


def possible(name, image):
    """Every outcome that the augmentation may have, as bytes."""
    pad = {"none": 0, "flip": 0, "crop": 1, "crop_flip": 1}[name]  # an eighth of the side
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    windows = [padded[y : y + 8, x : x + 8] for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
    mirrored = name.endswith("flip")
    return {w.tobytes() for window in windows for w in ([window, window[:, ::-1]] if mirrored else [window])}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_gives_every_possible_outcome_and_no_other(images, name):
    got = jax.jit(augment, static_argnums=0)(name, jax.random.key(0), images)
    assert got.shape == images.shape and got.dtype == np.uint8
    assert {np.asarray(image).tobytes() for image in got} == possible(name, np.asarray(images[0]))


def test_is_decided_by_the_key(images):
    first, again, other = (augment("crop_flip", jax.random.key(seed), images) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_refuses_an_unknown_name(images):
    with pytest.raises(LinftError, match="no augmentation 'mixup'; choose among none, flip, crop, crop_flip"):
        augment("mixup", jax.random.key(0), images)
