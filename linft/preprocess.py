"""From uint8 images of any size to the array a network was pretrained on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from linft.errors import LinftError

Images = UInt8[np.ndarray, "n h w c"] | UInt8[np.ndarray, "n h w"] | Sequence[UInt8[np.ndarray, "_ _ _"]]


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
        channels = self.input_size[2]
        if channels not in (1, 3):
            raise LinftError(f"input_size is {self.input_size}; the channels must be 1 or 3")
        if len(self.mean) != channels or len(self.std) != channels:
            raise LinftError(f"mean and std need {channels} numbers each, one a channel; got {self.mean}, {self.std}")
        if min(self.std) <= 0 or not 0 < self.crop <= 1:
            raise LinftError("std must be above 0 and crop must lie in (0, 1]")

    def resize(self, images: Images) -> UInt8[np.ndarray, "n height width channels"]:
        """Images at the network's input size and channels, still uint8, on the host."""
        if isinstance(images, np.ndarray) and images.ndim == 3:  # [n h w]: grey without a channel axis
            images = images[..., None]
        if isinstance(images, np.ndarray) and images.shape[1:] == self.input_size:
            return images
        if len(images) == 0:
            return np.zeros((0, *self.input_size), np.uint8)
        return np.stack([self._resize_one(image) for image in images])

    def _resize_one(self, image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "height width channels"]:
        height, width, channels = self.input_size
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        picture = picture.convert("L" if channels == 1 else "RGB")
        if picture.size != (width, height):
            size = self._resized(picture.width, picture.height)
            picture = picture.resize(size, getattr(Image.Resampling, self.interpolation.upper()))
            left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
            picture = picture.crop((left, top, left + width, top + height))
        return np.asarray(picture, np.uint8).reshape(self.input_size)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height before the crop; rounded as in timm and torchvision, to the same pixels."""
        target_height, target_width = (math.floor(side / self.crop) for side in self.input_size[:2])
        if height * target_width <= width * target_height:
            return int(target_height * width / height), target_height
        return target_width, int(target_width * height / width)

    def normalize(self, images: UInt8[Array | np.ndarray, "n h w c"]) -> Float[Array, "n h w c"]:
        """(pixels / 255 − mean) / std in float, under jit or not."""
        pixels = jnp.asarray(images).astype(jnp.result_type(float)) / 255
        return (pixels - jnp.asarray(self.mean).reshape(1, 1, 1, -1)) / jnp.asarray(self.std).reshape(1, 1, 1, -1)

    def __call__(self, images: Any) -> Float[Array, "n h w c"]:
        """Resize and normalize."""
        return self.normalize(self.resize(images))
