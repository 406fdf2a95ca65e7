"""Preprocessing is torchvision's Resize and CenterCrop to the pixel, then the channels' mean and deviation."""

from pathlib import Path

import jax
import numpy as np
import pytest

from linft.core.errors import LinftError
from linft.core.preprocessing import Preprocessing

STORED = Path(__file__).parents[1] / "stored" / "torchvision_resize.npz"

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


@pytest.mark.parametrize(
    ("size", "input_size", "expected"),
    [
        ((300, 400), (224, 224), (256, 341)),  # 4/3 exactly, to the pixel
        ((300, 330), (224, 224), (256, 281)),
        ((900, 300), (224, 224), (341, 256)),  # cut
        ((28, 28), (32, 32), (37, 37)),  # enlarged
        ((32, 32), (32, 32), (37, 37)),
        ((40, 40), (16, 24), (24, 27)),  # covers 18×27, and its 27 rows are cut to 4/3 of 18
        ((20, 80), (16, 24), (18, 36)),
    ],
)
def test_a_canvas_holds_the_image_at_eight_sevenths_of_the_input(size, input_size, expected):
    preprocessing = Preprocessing((*input_size, 3))
    squares, sizes = preprocessing.canvas([np.full((*size, 3), 200, np.uint8)])
    height, width = expected
    assert sizes.tolist() == [[height, width]] and squares.dtype == np.uint8
    assert (squares[0, :height, :width] == 200).all()
    assert not squares[0, height:].any() and not squares[0, :, width:].any()


def test_pixels_on_a_canvas_are_resized_and_cut_about_the_centre():
    ramp = np.broadcast_to(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], (16, 60, 3))
    squares, sizes = Preprocessing((14, 14, 3)).canvas([ramp])  # 16 rows already: only cut, to 21 columns
    assert sizes.tolist() == [[16, 21]] and squares.shape == (1, 21, 21, 3)
    left = round((60 - 21) / 2)
    np.testing.assert_array_equal(squares[0, :16, :21], ramp[:, left : left + 21])


def test_a_canvas_is_as_resize_at_seven_eighths_where_nothing_is_cut(grey):
    preprocessing = Preprocessing((14, 14, 3), interpolation="bicubic")
    squares, sizes = preprocessing.canvas(grey[..., 0])
    np.testing.assert_array_equal(squares, Preprocessing((16, 16, 3), interpolation="bicubic").resize(grey))
    assert sizes.tolist() == [[16, 16]] * 3


def test_the_side_of_canvases_is_given_or_the_least_that_is_needed(grey):
    preprocessing, wide = Preprocessing((14, 14, 1), (0.5,), (0.5,)), np.zeros((8, 30, 1), np.uint8)
    assert preprocessing.canvas_side == 21
    assert preprocessing.canvas(grey)[0].shape == (3, 16, 16, 1)
    assert preprocessing.canvas([*grey, wide])[0].shape == (4, 21, 21, 1)
    larger, sizes = preprocessing.canvas(grey, side=25)
    np.testing.assert_array_equal(larger[:, :16, :16], preprocessing.canvas(grey)[0])
    assert larger.shape == (3, 25, 25, 1) and not larger[:, 16:].any() and sizes.tolist() == [[16, 16]] * 3
    square, size = preprocessing.canvas_one(grey[1], 25)
    np.testing.assert_array_equal(square, larger[1])
    assert size == (16, 16)
    with pytest.raises(LinftError, match="an image of 16×21 does not fit on a canvas of side 20; use canvas_side"):
        preprocessing.canvas([wide], side=20)


def test_no_images_are_no_canvases():
    squares, sizes = Preprocessing((14, 14, 3)).canvas([])
    assert squares.shape == (0, 16, 16, 3) and sizes.shape == (0, 2)
