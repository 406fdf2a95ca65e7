"""Windows of the input size, cut from images that lie at the top left of a larger canvas; the ten crops of a test."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from linft.core.errors import LinftError


def cut(
    image: UInt8[Array, "H W c"], corner: Int[Array | np.ndarray, "2"], shape: tuple[int, int]
) -> UInt8[Array, "h w c"]:
    """The window of a shape (h, w) whose top left pixel is `corner`."""
    return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (*shape, image.shape[-1]))


def centre_crop(
    canvas: UInt8[Array, "H W c"], size: Int[Array | np.ndarray, "2"], shape: tuple[int, int]
) -> UInt8[Array, "h w c"]:
    """The central window of the image of `size` on the canvas; halves round to even, as in `Preprocessing.resize`.

    Example:
      >>> canvas = jnp.arange(25, dtype=jnp.uint8).reshape(5, 5, 1)
      >>> centre_crop(canvas, jnp.array([5, 3]), (3, 1))[..., 0].tolist()
      [[6], [11], [16]]
    """
    return cut(canvas, jnp.round((jnp.asarray(size) - jnp.asarray(shape)) / 2).astype(int), shape)


def ten_crops(
    canvases: UInt8[Array | np.ndarray, "n H W c"], sizes: Int[Array | np.ndarray, "n 2"], shape: tuple[int, int]
) -> UInt8[Array, "n 10 h w c"]:
    """Top left, top right, bottom left, bottom right, centre; then their mirrors (Krizhevsky and others 2012, 4.1).

    Example:
      >>> canvas = jnp.arange(16, dtype=jnp.uint8).reshape(1, 4, 4, 1)
      >>> ten_crops(canvas, jnp.array([[4, 4]]), (2, 2))[0, :, 0, 0, 0].tolist()
      [0, 2, 8, 10, 5, 1, 3, 9, 11, 6]
    """
    if shape[0] > canvases.shape[1] or shape[1] > canvases.shape[2]:
        raise LinftError(f"windows of {shape} do not fit in canvases of {canvases.shape[1:3]}; use larger canvases")

    def five(canvas: Array, size: Array) -> Array:
        far = size - jnp.asarray(shape)
        corners = [far * jnp.array(share) for share in ((0, 0), (0, 1), (1, 0), (1, 1))]
        return jnp.stack([*(cut(canvas, corner, shape) for corner in corners), centre_crop(canvas, size, shape)])

    upright = jax.vmap(five)(jnp.asarray(canvases), jnp.asarray(sizes))
    return jnp.concatenate([upright, jnp.flip(upright, axis=-2)], axis=1)
