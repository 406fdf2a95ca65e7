"""Random changes to images on the device, under jit: a table of rows, each composed of single transforms."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Key, UInt8

from linft.core.errors import LinftError
from linft.data.crops import centre_crop, cut

AREAS = (0.08, 1.0)
RATIOS = (3 / 4, 4 / 3)
TRIES = 10
STRENGTH = 0.4


def flip(key: Key[Array, ""], image: UInt8[Array, "h w c"]) -> UInt8[Array, "h w c"]:
    """Mirror left and right with probability ½."""
    return jnp.asarray(dm_pix.random_flip_left_right(key, image))


def crop(key: Key[Array, ""], image: UInt8[Array, "h w c"]) -> UInt8[Array, "h w c"]:
    """Pad by an eighth of the side with black and cut a random window of the old size."""
    pad = image.shape[0] // 8
    padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    return jnp.asarray(dm_pix.random_crop(key, padded, image.shape))


def colour_jitter(key: Key[Array, ""], image: UInt8[Array, "h w c"]) -> UInt8[Array, "h w c"]:
    """Brightness, contrast and saturation times a factor each from [0.6, 1.4] (Xie and others 2018, section 2.1)."""
    return adjust_colours(image, *jax.random.uniform(key, (3,), minval=1 - STRENGTH, maxval=1 + STRENGTH))


def adjust_colours(
    image: UInt8[Array, "h w c"], brightness: ArrayLike, contrast: ArrayLike, saturation: ArrayLike
) -> UInt8[Array, "h w c"]:
    """Scale towards black, the mean grey ḡ and each pixel's grey g: x ← b (ḡ + c (g − ḡ + s (x − g))).

    As in Pillow and torchvision, whereas dm_pix, after TensorFlow, adds to the brightness. The three
    commute but for clipping, which is done once at the end, so they need no random order.

    Example:
      >>> adjust_colours(jnp.array([[[20], [40]]], jnp.uint8), 2.0, 0.5, 1.4).ravel().tolist()
      [50, 70]
    """
    x = image.astype(jnp.result_type(float))
    grey = jnp.asarray(dm_pix.rgb_to_grayscale(x)) if image.shape[-1] == 3 else x
    mean = grey.mean(keepdims=True)
    return _to_uint8(brightness * (mean + contrast * (grey - mean + saturation * (x - grey))))


def random_crop(
    key: Key[Array, ""], canvas: UInt8[Array, "H W c"], size: Int[Array, "2"], shape: tuple[int, int]
) -> UInt8[Array, "h w c"]:
    """A window of a fixed shape at a random place in the image of `size` on the canvas."""
    return cut(canvas, jax.random.randint(key, (2,), 0, size - jnp.array(shape) + 1), shape)


def random_resized_crop(
    key: Key[Array, ""], canvas: UInt8[Array, "H W c"], size: Int[Array, "2"], shape: tuple[int, int]
) -> UInt8[Array, "h w c"]:
    """A random window of the image of `size` on the canvas, resampled (Szegedy and others 2015, section 6)."""
    return resample(canvas, *random_window(key, size), shape)


def random_window(key: Key[Array, ""], size: Int[Array, "2"]) -> tuple[Int[Array, "2"], Int[Array, "2"]]:
    """Corner and extent (down, right) of a window with an area of 8 to 100 % and a ratio (w/h) from 3/4 to 4/3.

    The area is uniform and the ratio log-uniform; of ten tries, the first that fits. Where none does, the
    largest central window of such a ratio, as in torchvision.
    """
    area, ratio, *places = jax.random.uniform(key, (4, TRIES))
    area = jnp.prod(size) * (AREAS[0] + (AREAS[1] - AREAS[0]) * area)
    ratio = RATIOS[0] * (RATIOS[1] / RATIOS[0]) ** ratio
    extents = jnp.round(jnp.sqrt(jnp.stack([area / ratio, area * ratio], axis=1)))
    corners = jnp.floor(jnp.stack(places, axis=1) * (size[None] - extents + 1))

    last = jnp.minimum(size, jnp.round(jnp.stack([size[1] / RATIOS[0], size[0] * RATIOS[1]])))
    extents = jnp.concatenate([extents, last[None]]).astype(size.dtype)
    corners = jnp.concatenate([corners, jnp.floor((size - last) / 2)[None]]).astype(size.dtype)
    first = jnp.argmax(jnp.all((extents > 0) & (extents <= size[None]), axis=1))  # the last always fits
    return corners[first], extents[first]


def resample(
    image: UInt8[Array, "H W c"], corner: Int[Array, "2"], extent: Int[Array, "2"], shape: tuple[int, int]
) -> UInt8[Array, "h w c"]:
    """A window of the image resampled to a shape, bilinear, antialiased, with no weight on pixels outside the window.

    Example:
      >>> image = jnp.array([[[10], [30], [255]]], jnp.uint8)
      >>> resample(image, jnp.array([0, 0]), jnp.array([1, 2]), (1, 4)).ravel().tolist()
      [10, 15, 25, 30]
    """
    scale = jnp.array(shape) / extent
    shift = -corner * scale
    pixels = [jnp.arange(side) for side in image.shape[:2]]
    inside = [
        ((i >= start) & (i < start + length)).astype(scale.dtype)
        for i, start, length in zip(pixels, corner, extent, strict=True)
    ]
    masked = image * inside[0][:, None, None] * inside[1][None, :, None]
    x = jax.image.scale_and_translate(masked, (*shape, image.shape[-1]), (0, 1), scale, shift, "linear")
    # The kernel reaches beyond the window's edge: what its weights inside add up to divides.
    rows, columns = (
        jax.image.scale_and_translate(inside[i], shape[i : i + 1], (0,), scale[i : i + 1], shift[i : i + 1], "linear")
        for i in (0, 1)
    )
    return _to_uint8(x / (rows[:, None, None] * columns[None, :, None]))


def _to_uint8(x: ArrayLike) -> Array:
    return jnp.clip(jnp.round(x), 0, 255).astype(jnp.uint8)


def _centre_crop(key: Key[Array, ""], canvas: Array, size: Array, shape: tuple[int, int]) -> Array:
    return centre_crop(canvas, size, shape)


@dataclass(frozen=True)
class Augmentation:
    """Perhaps a cut from a canvas to the input size, then changes of the pixels, each with a key of its own."""

    changes: tuple[Callable, ...] = ()
    """Functions (key, image) -> image."""
    cut: Callable | None = None
    """(key, canvas, size, shape) -> image of that shape; None where images have the input size already."""

    @property
    def canvas(self) -> bool:
        """Whether it works on canvases (`Preprocessing.canvas`) rather than on images of the input size."""
        return self.cut is not None

    def __call__(
        self, key: Key[Array, ""], image: UInt8[Array, "H W c"], size: Int[Array, "2"], shape: tuple[int, int]
    ) -> UInt8[Array, "h w c"]:
        """One image of `size`, at the top left of its canvas, augmented to a shape."""
        cut_key, *keys = jax.random.split(key, 1 + len(self.changes))
        if self.cut is not None:
            image = self.cut(cut_key, image, size, shape)
        for change, key in zip(self.changes, keys, strict=True):
            image = change(key, image)
        return image


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(),
    "flip": Augmentation((flip,)),
    "crop": Augmentation((crop,)),
    "crop_flip": Augmentation((crop, flip)),
    "short_side_crop": Augmentation(cut=random_crop),
    "short_side_crop_flip": Augmentation((flip,), random_crop),
    "resized_crop": Augmentation((flip,), random_resized_crop),
    # Li and others 2020, appendix D, the first being their default (section 3.1)
    "li2020_resized_crop": Augmentation((flip, colour_jitter), random_resized_crop),
    "li2020_crop": Augmentation((flip, colour_jitter), random_crop),
    "li2020_flip": Augmentation((flip,), _centre_crop),
}


def augment(
    name: str,
    keys: Key[Array, "n"],
    images: UInt8[Array | np.ndarray, "n H W c"],
    sizes: Int[Array | np.ndarray, "n 2"] | None,
    shape: tuple[int, int],
) -> UInt8[Array, "n h w c"]:
    """Augment every image with its own key, so that it comes out the same in whatever batch it is.

    Args:
      name: a row of `AUGMENTATIONS`.
      keys: a key for each image.
      images: images of the input size, or canvases where the row works on them.
      sizes: height and width of the image on each canvas; None where it is full.
      shape: height and width that come out; static under jit, as is the name.

    Raises:
      LinftError: an unknown name; images that are not of the size the row works on.

    Example:
      >>> keys, canvases = jax.random.split(jax.random.key(0), 2), jnp.zeros((2, 9, 9, 3), jnp.uint8)
      >>> augment("li2020_crop", keys, canvases, jnp.array([[9, 8], [8, 9]]), (8, 8)).shape
      (2, 8, 8, 3)
    """
    if name not in AUGMENTATIONS:
        raise LinftError(f"no augmentation {name!r}; choose among {', '.join(AUGMENTATIONS)}")
    row, (height, width) = AUGMENTATIONS[name], images.shape[1:3]
    if not row.canvas and (height, width) != shape:
        raise LinftError(f"{name} works on images of the input size {shape}, not {(height, width)}; resize them first")
    if row.canvas and (height < shape[0] or width < shape[1]):
        raise LinftError(f"{name} cannot cut {shape} from canvases of {(height, width)}; use Preprocessing.canvas")
    sizes = jnp.tile(jnp.array([[height, width]]), (len(images), 1)) if sizes is None else jnp.asarray(sizes)
    return jax.vmap(partial(row, shape=shape))(keys, jnp.asarray(images), sizes)
