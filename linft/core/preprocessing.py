"""From uint8 images of any size to the array a network was pretrained on."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Self

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image

from linft.core.errors import LinftError

Images = UInt8[np.ndarray, "n h w c"] | UInt8[np.ndarray, "n h w"] | Sequence[UInt8[np.ndarray, "_ _ _"]]
Pixels = UInt8[Array | np.ndarray, "n h w c"] | Float[Array | np.ndarray, "n h w c"]  # from 0 to 255
Size = tuple[int, int]  # height and width


@dataclass(frozen=True)
class Preprocessing:
    """Resize the short side, cut the centre, match the channels, divide by 255, standardise.

    The short side is resized to `height / crop`, then the centre is cut, as in timm; an image that
    has the input size already is not resampled. Grey images are repeated over three channels.

    Example:
      >>> import numpy as np
      >>> grey = np.zeros((2, 8, 8, 1), np.uint8)
      >>> Preprocessing((32, 32, 3)).resize(grey).shape
      (2, 32, 32, 3)
    """

    input_size: tuple[int, int, int]
    """Height, width and channels of the network's input."""
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Mean of each channel, on the scale 0 to 1."""
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Standard deviation of each channel, on the scale 0 to 1."""
    crop: float = 1.0
    """Share of the resized short side that the centre crop keeps."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    """How Pillow resamples."""

    def __post_init__(self):
        for name in ("input_size", "mean", "std"):  # a list would do but for hashing
            object.__setattr__(self, name, tuple(getattr(self, name)))
        channels = self.input_size[2]
        if channels not in (1, 3):
            raise LinftError(f"input_size is {self.input_size}; the channels must be 1 or 3")
        if len(self.mean) != channels or len(self.std) != channels:
            raise LinftError(f"mean and std need {channels} numbers each, one a channel; got {self.mean}, {self.std}")
        if min(self.std) <= 0 or not 0 < self.crop <= 1:
            raise LinftError("std must be above 0 and crop must lie in (0, 1]")

    def grey(self) -> Self:
        """The same for a network of one input channel: mean and deviation are averaged over the channels.

        Example:
          >>> Preprocessing((32, 32, 3), mean=(0.25, 0.5, 0.75)).grey().mean
          (0.5,)
        """
        height, width, channels = self.input_size
        mean, std = sum(self.mean) / channels, sum(self.std) / channels
        return dataclasses.replace(self, input_size=(height, width, 1), mean=(mean,), std=(std,))

    def resize(self, images: Images) -> UInt8[np.ndarray, "n height width channels"]:
        """Images at the network's input size and channels, still uint8, on the host."""
        images = _with_channels(images)
        if isinstance(images, np.ndarray) and images.shape[1:] == self.input_size:
            return images
        resized = np.empty((len(images), *self.input_size), np.uint8)

        def put(i: int) -> None:
            resized[i] = self._resize_one(images[i])

        _in_threads(put, len(images))
        return resized

    def _resize_one(self, image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "height width channels"]:
        height, width, _ = self.input_size
        size, share = (height, width), 1.0 if image.shape[:2] == (height, width) else self.crop
        covered = (math.floor(height / share), math.floor(width / share))
        return self._cover(image, covered, size)

    @property
    def canvas_side(self) -> int:
        """Side of a canvas that any image fits on: 4/3 of 8/7 of the input's longer side."""
        return max(_longest(self._canvas_covered()))

    def canvas(
        self, images: Images, side: int | None = None
    ) -> tuple[UInt8[np.ndarray, "n side side channels"], Int[np.ndarray, "n 2"]]:
        """Images to cut random windows from, each at the top left of a black square, and their heights and widths.

        An image just covers 8/7 of the input's height and width, its aspect kept; of what is longer than 4/3 of
        that, both ends are cut off evenly. With an input of 224×224 the short side is 256 (Li and others 2020,
        section 3.1) and the long side 341 at most.

        Args:
          images: as for `resize`.
          side: of the squares; by default `canvas_side`, or only 8/7 of the input's longer side where every
            image has the input's aspect.

        Raises:
          LinftError: an image that does not fit in the side.

        Example:
          >>> import numpy as np
          >>> squares, sizes = Preprocessing((14, 14, 3)).canvas([np.zeros((20, 25, 3), np.uint8)])
          >>> squares.shape, sizes.tolist()
          ((1, 21, 21, 3), [[16, 20]])
        """
        images = _with_channels(images)
        covered = self._canvas_covered()
        if side is None:
            same_aspect = all(_covering(image.shape[:2], covered) == covered for image in images)
            side = max(covered) if same_aspect else self.canvas_side
        squares = np.empty((len(images), side, side, self.input_size[2]), np.uint8)
        sizes = np.empty((len(images), 2), np.int32)

        def put(i: int) -> None:
            squares[i], sizes[i] = self.canvas_one(images[i], side)

        _in_threads(put, len(images))
        return squares, sizes

    def canvas_one(
        self, image: UInt8[np.ndarray, "h w c"], side: int
    ) -> tuple[UInt8[np.ndarray, "side side channels"], tuple[int, int]]:
        """One image at the top left of a black square of that side, and its height and width there; see `canvas`."""
        covered = self._canvas_covered()
        resized = self._cover(image, covered, _longest(covered))
        height, width, channels = resized.shape
        if max(height, width) > side:
            raise LinftError(f"an image of {height}×{width} does not fit on a canvas of side {side}; use canvas_side")
        square = np.zeros((side, side, channels), np.uint8)
        square[:height, :width] = resized
        return square, (height, width)

    def _canvas_covered(self) -> Size:
        height, width = (round(8 / 7 * side) for side in self.input_size[:2])
        return height, width

    def _cover(self, image: UInt8[np.ndarray, "h w c"], covered: Size, most: Size) -> UInt8[np.ndarray, "_ _ channels"]:
        """The image resized so that it just covers one size, then cut about its centre to another at most."""
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        picture = picture.convert("L" if self.input_size[2] == 1 else "RGB")
        full_height, full_width = _covering(image.shape[:2], covered)
        if picture.size != (full_width, full_height):
            picture = picture.resize((full_width, full_height), getattr(Image.Resampling, self.interpolation.upper()))
        height, width = min(full_height, most[0]), min(full_width, most[1])
        left, top = round((full_width - width) / 2), round((full_height - height) / 2)
        picture = picture.crop((left, top, left + width, top + height))
        return np.asarray(picture, np.uint8).reshape(height, width, self.input_size[2])

    def normalize(self, images: Pixels, dtype: Any = jnp.float32) -> Float[Array, "n h w c"]:
        """(pixels / 255 − mean) / std in the type of the weights, under jit or not."""
        mean, std = (jnp.asarray(of_channels, dtype).reshape(1, 1, 1, -1) for of_channels in (self.mean, self.std))
        return (jnp.asarray(images).astype(dtype) / 255 - mean) / std

    def __call__(self, images: Any, dtype: Any = jnp.float32) -> Float[Array, "n h w c"]:
        """Resize and normalize; pixels that are no whole numbers have the input size already."""
        sized = isinstance(images, np.ndarray) and np.issubdtype(images.dtype, np.floating)
        return self.normalize(images if sized else self.resize(images), dtype)


def _covering(size: tuple[int, ...], covered: Size) -> Size:
    """Height and width of an image's own aspect that just cover another; rounded as in timm and torchvision."""
    (height, width), (target_height, target_width) = size, covered
    if height * target_width <= width * target_height:
        return target_height, int(target_height * width / height)
    return int(target_width * height / width), target_width


def _longest(covered: Size) -> Size:
    height, width = (round(4 / 3 * side) for side in covered)
    return height, width


def _with_channels(images: Images) -> UInt8[np.ndarray, "n h w c"] | Sequence[UInt8[np.ndarray, "_ _ _"]]:
    """Grey images without a channel axis, [n h w], get one."""
    return images[..., None] if isinstance(images, np.ndarray) and images.ndim == 3 else images


def _in_threads(put: Callable[[int], None], n: int) -> None:
    """Call with 0 … n − 1; Pillow lets go of the interpreter while it resamples."""
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(put, range(n)):
            pass
