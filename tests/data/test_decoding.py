"""Image files of any kind become what Pillow's convert makes of them; damaged ones are refused in one line."""

import io
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from linft.core.errors import LinftError
from linft.data.decoding import decode, decoded_bytes


@pytest.fixture(scope="module")
def photo(shared):
    with zipfile.ZipFile(shared / "data" / "hymenoptera_photos.zip") as file:
        name = min(name for name in file.namelist() if name.endswith(".jpg"))
        return Image.open(io.BytesIO(file.read(name))).convert("RGB").resize((20, 14))


def stored(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


KINDS = {
    "colours": lambda photo: stored(photo, "png"),
    "palette": lambda photo: stored(photo.quantize(32), "png"),
    "palette with a transparent colour": lambda photo: stored(photo.quantize(32), "png", transparency=3),
    "palette with transparencies": lambda photo: stored(photo.quantize(32), "png", transparency=bytes(range(32))),
    "palette in a gif": lambda photo: stored(photo.quantize(16), "gif"),
    "palette in a bmp": lambda photo: stored(photo.quantize(16), "bmp"),
    "palette of two colours": lambda photo: stored(photo.quantize(2), "png", bits=1),
    "one bit": lambda photo: stored(photo.convert("1"), "png"),
    "one bit in a tiff": lambda photo: stored(photo.convert("1"), "tiff", compression="group4"),
    "grey": lambda photo: stored(photo.convert("L"), "jpeg"),
    "grey with a transparent one": lambda photo: stored(photo.convert("L"), "png", transparency=3),
    "grey and alpha": lambda photo: stored(photo.convert("LA"), "png"),
    "alpha": lambda photo: stored(faded(photo), "png"),
    "alpha in a webp": lambda photo: stored(faded(photo), "webp", lossless=True),
    "CMYK": lambda photo: stored(photo.convert("CMYK"), "jpeg"),
    "CMYK in a tiff": lambda photo: stored(photo.convert("CMYK"), "tiff"),
    "YCbCr in a tiff": lambda photo: stored(photo.convert("YCbCr"), "tiff"),
}


def faded(photo):
    photo = photo.copy()
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    return photo


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_as_pillow_converts(kind, mode, photo):
    data = KINDS[kind](photo)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transparency, which has no part in the colours
        expected = np.asarray(Image.open(io.BytesIO(data)).convert(mode)).reshape(14, 20, -1)
    np.testing.assert_array_equal(decode(data, "it", mode), expected)
    assert decoded_bytes(data, "it") == 14 * 20 * 3


FORMATS = {
    "ppm": lambda photo: stored(photo, "ppm"),
    "ppm in words": lambda photo: b"P3 2 2 255 " + b"1 2 3 " * 4,
    "pgm": lambda photo: stored(photo.convert("L"), "ppm"),
    "pbm": lambda photo: stored(photo.convert("1"), "ppm"),
    "bmp": lambda photo: stored(photo, "bmp"),
    "bmp with a palette": lambda photo: stored(photo.quantize(16), "bmp"),
    "tiff": lambda photo: stored(photo, "tiff"),
    "tiff, lzw": lambda photo: stored(photo, "tiff", compression="tiff_lzw"),
    "tiff, jpeg": lambda photo: stored(photo, "tiff", compression="jpeg"),
    "png": lambda photo: stored(photo, "png"),
    "palette": lambda photo: stored(photo.quantize(8), "png"),
    "gif": lambda photo: stored(photo.quantize(8), "gif"),
    "jpeg": lambda photo: stored(photo, "jpeg"),
    "webp": lambda photo: stored(photo, "webp"),
}


@pytest.mark.filterwarnings("ignore")  # by which Pillow tells of small damage
@pytest.mark.parametrize("form", FORMATS)
def test_cut_or_changed_files_are_read_or_refused_in_one_line(form, photo):
    whole, rng = FORMATS[form](photo), np.random.default_rng(0)
    ends = [*range(0, min(len(whole), 80)), *range(80, len(whole), 61), len(whole) - 1]
    damaged = [whole[:end] for end in ends]
    for _ in range(60):
        changed = bytearray(whole)
        for place in rng.integers(0, min(len(whole), 200), 3):
            changed[place] = rng.integers(256)
        damaged.append(bytes(changed))
    refused = 0
    for data in damaged:
        for read in (decode, decoded_bytes):
            try:
                read(data, "dir/it.x")
            except LinftError as error:
                refused += 1
                assert "dir/it.x" in str(error) and len(str(error).splitlines()) == 1, error
    assert refused > 20
    with pytest.raises(LinftError, match=r"it is not a readable image \(.+\); repair or remove it"):
        decode(whole[: len(whole) // 3], "it")


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "no format that Pillow knows"), (b"<html>404</html>", "no format that Pillow knows")],
)
def test_what_is_no_image(data, reason):
    with pytest.raises(LinftError, match=reason):
        decode(data, "it")


@pytest.mark.parametrize("mode", ["I;16", "F"])
def test_refuses_more_than_8_bits(mode):
    deep = Image.fromarray(np.full((4, 5), 300, np.uint16 if mode == "I;16" else np.float32))
    with pytest.raises(LinftError, match=rf"it has more than 8 bits a channel \({mode}\); convert it to 8 bits"):
        decode(stored(deep, "tiff"), "it")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_says_the_limit_of_pixels(photo, monkeypatch):
    data = stored(photo, "png")  # 280 pixels
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 140)
    assert decode(data, "it").shape == (14, 20, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 139)
    for read in (decode, decoded_bytes):
        with pytest.raises(LinftError, match=r"it: Image size \(280 pixels\) exceeds limit of 278 pixels, .*; scale"):
            read(data, "it")
