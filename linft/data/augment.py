"""Random changes to a batch of images on the device, under jit; one row of a table each."""

from collections.abc import Callable

import dm_pix
import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt8

from linft.errors import LinftError


def flip(key: Array, image: UInt8[Array, "h w c"]) -> UInt8[Array, "h w c"]:
    """Mirror left and right with probability ½."""
    return jnp.asarray(dm_pix.random_flip_left_right(key, image))


def crop(key: Array, image: UInt8[Array, "h w c"]) -> UInt8[Array, "h w c"]:
    """Pad by an eighth of the side with black and cut a random window of the old size."""
    pad = image.shape[0] // 8
    padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    return jnp.asarray(dm_pix.random_crop(key, padded, image.shape))


def crop_flip(key: Array, image: UInt8[Array, "h w c"]) -> UInt8[Array, "h w c"]:
    """A crop, then a flip."""
    cut, mirror = jax.random.split(key)
    return flip(mirror, crop(cut, image))


AUGMENTATIONS: dict[str, Callable] = {
    "none": lambda key, image: image,
    "flip": flip,
    "crop": crop,
    "crop_flip": crop_flip,
}


def augment(name: str, key: Array, images: UInt8[Array, "n h w c"]) -> UInt8[Array, "n h w c"]:
    """Augment every image with a key of its own.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> augment("crop_flip", jax.random.key(0), jnp.zeros((2, 8, 8, 3), jnp.uint8)).shape
      (2, 8, 8, 3)
    """
    if name not in AUGMENTATIONS:
        raise LinftError(f"no augmentation {name!r}; choose among {', '.join(AUGMENTATIONS)}")
    return jax.vmap(AUGMENTATIONS[name])(jax.random.split(key, len(images)), images)
