"""From the bytes of an image file to pixels: whatever way it is stored, as Pillow converts it, and upright."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from linft.core.errors import LinftError


def decode(data: bytes, name: str, mode: Literal["RGB", "L"] = "RGB") -> UInt8[np.ndarray, "h w c"]:
    """The image in a mode, turned as its EXIF says; of a palette its colours, of transparency nothing.

    Args:
      data: what the file holds.
      name: of the image, for errors.
      mode: three channels, or one of grey.

    Raises:
      LinftError: it is damaged, in no format or mode that Pillow converts, has more than 8 bits a channel,
        or more pixels than Pillow's guard against decompression bombs lets through.

    Example:
      >>> file = io.BytesIO()
      >>> Image.new("CMYK", (3, 2)).save(file, "jpeg")
      >>> decode(file.getvalue(), "white").shape, int(decode(file.getvalue(), "white").min())
      ((2, 3, 3), 255)
    """
    with _opened(data, name) as image:
        if image.mode[0] in "IF":  # Pillow would clip them to white without a word
            raise LinftError(f"{name} has more than 8 bits a channel ({image.mode}); convert it to 8 bits")
        ImageOps.exif_transpose(image, in_place=True)  # a large photograph is copied as seldom as can be
        image.info.pop("transparency", None)  # which Pillow warns of where it cannot keep it
        pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels[..., None] if mode == "L" else pixels


def decoded_bytes(data: bytes, name: str) -> int:
    """Bytes of the decoded image in three channels, by the file's header alone.

    Raises:
      LinftError: as `decode`, of what a header tells.
    """
    with _opened(data, name) as image:
        return 3 * image.width * image.height


@contextmanager
def _opened(data: bytes, name: str) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            yield image
    except LinftError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        size = str(error).split(",")[0]  # "Image size (… pixels) exceeds limit of … pixels"
        raise LinftError(
            f"{name}: {size}, Pillow's guard against decompression bombs; "
            "scale the image down, or raise PIL.Image.MAX_IMAGE_PIXELS"
        ) from None
    except UnidentifiedImageError:
        raise LinftError(f"{name} is not a readable image (no format that Pillow knows); repair or remove it") from None
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them stumble over
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LinftError(f"{name} is not a readable image ({reason}); repair or remove it") from None
