"""Preprocessing is torchvision's Resize and CenterCrop to the pixel, then the channels' mean and deviation."""

from pathlib import Path

import jax
import numpy as np
import pytest

from linft.errors import LinftError
from linft.preprocess import Preprocessing

STORED = Path(__file__).parent / "stored" / "torchvision_resize.npz"

# Height and width of the picture, side of the crop, its share of the short side, interpolation: the
# cases that tests/stored/make_torchvision_resize.py ran in torchvision.
CASES = {
    "wide": (40, 61, 24, 0.875, "bilinear"),
    "tall": (64, 31, 24, 0.875, "bicubic"),
    "larger": (24, 29, 32, 1.0, "bilinear"),
    "odd share": (33, 50, 24, 0.9, "lanczos"),
    "square": (40, 40, 24, 1.0, "nearest"),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_torchvision(name):
    height, width, side, crop, interpolation = CASES[name]
    with np.load(STORED) as file:
        picture, expected = file["sheet"][:height, :width], file[name]
    resize = Preprocessing((side, side, 3), crop=crop, interpolation=interpolation).resize
    np.testing.assert_array_equal(resize([picture])[0], expected)
    np.testing.assert_array_equal(resize(np.stack([picture] * 2))[1], expected)


def test_an_oblong_input_is_filled_whole():
    ramp = np.broadcast_to(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], (20, 60, 3))
    resized = Preprocessing((20, 30, 3)).resize([ramp])[0]  # the height fits already: only cut
    np.testing.assert_array_equal(resized, ramp[:, 15:45])


@pytest.fixture(scope="module")
def grey():
    return np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)


def test_the_right_size_is_left_alone_whatever_the_crop(grey):
    colour = np.concatenate([grey, 255 - grey, grey // 2], axis=-1)
    preprocessing = Preprocessing((8, 8, 3), crop=0.5)
    np.testing.assert_array_equal(preprocessing.resize(colour), colour)
    np.testing.assert_array_equal(preprocessing.resize([*colour, np.zeros((9, 9, 3), np.uint8)])[:3], colour)


def test_grey_is_repeated_over_three_channels(grey):
    for images in (grey, grey[..., 0], list(grey)):
        np.testing.assert_array_equal(Preprocessing((8, 8, 3)).resize(images), np.repeat(grey, 3, axis=-1))


def test_grey_stays_grey_for_one_channel(grey):
    preprocessing = Preprocessing((8, 8, 1), (0.5,), (0.5,))
    np.testing.assert_array_equal(preprocessing.resize(grey), grey)
    np.testing.assert_array_equal(preprocessing.resize(np.repeat(grey, 3, axis=-1)), grey)


def test_pixels_are_standardised_channel_by_channel():
    pixels = np.array([[[[0, 51, 255]]]], np.uint8)
    preprocessing = Preprocessing((1, 1, 3), (0.5, 0.1, 0.2), (0.5, 0.1, 0.4))
    for normalize in (preprocessing.normalize, jax.jit(preprocessing.normalize), preprocessing):
        np.testing.assert_allclose(normalize(pixels), [[[[-1.0, 1.0, 2.0]]]], rtol=1e-6)


def test_no_images_are_no_error():
    assert Preprocessing((8, 8, 3)).resize([]).shape == (0, 8, 8, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (((8, 8, 2), (0.5,) * 2, (0.5,) * 2), "the channels must be 1 or 3"),
        (((8, 8, 1),), "mean and std need 1 numbers each, one a channel"),
        (((8, 8, 3), (0.5,) * 3, (0.5, 0.0, 0.5)), "std must be above 0"),
        (((8, 8, 3), (0.5,) * 3, (0.5,) * 3, 0.0), r"crop must lie in \(0, 1\]"),
        (((8, 8, 3), (0.5,) * 3, (0.5,) * 3, 1.5), r"crop must lie in \(0, 1\]"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(LinftError, match=message):
        Preprocessing(*settings)
