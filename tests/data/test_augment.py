"""Augmentation: every image by its own key, exact windows, bounds of random windows, no black from the canvas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from linft.core.errors import LinftError
from linft.core.preprocessing import Preprocessing
from linft.data import augment as module
from linft.data.augment import AUGMENTATIONS, adjust_colours, augment, random_window, resample

N, SHAPE = 240, (8, 8)  # the same everywhere, so that every row is compiled once

compiled = jax.jit(augment, static_argnums=(0, 4))
windows = jax.jit(jax.vmap(random_window, (0, None)))


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def alike(got, expected):
    """Equal but for halves that round the other way, where sums are added in another order."""
    return np.abs(np.asarray(got, int) - np.asarray(expected, int)).max() <= 1


@pytest.fixture(scope="module")
def images(digits):
    """Copies of one digit of 8×8 pixels."""
    return np.repeat(digits.x_train[:1], N, axis=0)


@pytest.fixture(scope="module")
def sheet(digits):
    """A colour picture of 16×24 pixels: six digits, another six upside down, and the first six's negatives."""
    grey = np.concatenate([np.concatenate(list(row), axis=1) for row in digits.x_train[:6].reshape(2, 3, 8, 8)])
    return np.stack([grey, grey[::-1], 255 - grey], axis=-1)


@pytest.fixture(scope="module")
def canvases(digits):
    """Canvases for an input of 8×8 of a square, a wide and a tall picture, in turns, and their sizes."""
    picture = np.repeat(digits.x_train[0], 3, axis=-1)
    return Preprocessing((8, 8, 3)).canvas([picture, picture[2:], picture[:, 1:]] * (N // 3))


LONG = ("li2020_resized_crop", "li2020_flip", "short_side_crop", "crop")  # to compile; their parts are in others


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in AUGMENTATIONS]
)
def test_an_image_is_decided_by_its_key_alone(name, images, canvases):
    x, sizes = canvases if AUGMENTATIONS[name].canvas else (images, None)
    got = compiled(name, keys(N), x, sizes, SHAPE)
    assert got.shape == (N, *SHAPE, x.shape[-1]) and got.dtype == np.uint8
    order = np.random.default_rng(0).integers(0, N, N)
    again = compiled(name, keys(N)[order], x[order], None if sizes is None else sizes[order], SHAPE)
    np.testing.assert_array_equal(again, got[order])
    if name != "none":
        others = compiled(name, keys(N, seed=1), x, sizes, SHAPE)
        assert (others != got).any()


def test_is_the_same_in_a_smaller_batch_and_without_jit(canvases):
    got = compiled("li2020_crop", keys(N), *canvases, SHAPE)
    alone = augment("li2020_crop", keys(N)[5:8], canvases[0][5:8], canvases[1][5:8], SHAPE)
    assert alike(alone, got[5:8])


def possible(name, image):
    """Every outcome that the augmentation may have, as bytes."""
    pad = {"none": 0, "flip": 0, "crop": 1, "crop_flip": 1}[name]  # an eighth of the side
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    windows = [padded[y : y + 8, x : x + 8] for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
    mirrored = name.endswith("flip")
    return {w.tobytes() for window in windows for w in ([window, window[:, ::-1]] if mirrored else [window])}


@pytest.mark.parametrize("name", [name for name, row in AUGMENTATIONS.items() if not row.canvas])
def test_gives_every_possible_outcome_and_no_other(name, images):
    got = compiled(name, keys(N), images, None, SHAPE)
    assert {np.asarray(image).tobytes() for image in got} == possible(name, np.asarray(images[0]))


@pytest.mark.parametrize("which", range(3))
def test_a_short_side_crop_is_any_window_of_the_image_and_no_other(canvases, which):
    many, sizes = (np.repeat(each[which : which + 1], N, axis=0) for each in canvases)
    got = compiled("short_side_crop", keys(N), many, sizes, SHAPE)
    rows, columns = (range(side - 7) for side in sizes[0])
    possible = {many[0, y : y + 8, x : x + 8].tobytes() for y in rows for x in columns}
    assert len(possible) > 3 and {np.asarray(image).tobytes() for image in got} == possible


@pytest.mark.parametrize("which", range(3))
def test_random_flip_is_the_centre_or_its_mirror(canvases, which):
    many, sizes = (np.repeat(each[which : which + 1], N, axis=0) for each in canvases)
    top, left = (round((side - 8) / 2) for side in sizes[0].tolist())
    centre = many[0, top : top + 8, left : left + 8]
    got = compiled("li2020_flip", keys(N), many, sizes, SHAPE)
    assert {np.asarray(image).tobytes() for image in got} == {centre.tobytes(), centre[:, ::-1].tobytes()}


def test_mirror_twice_is_the_identity(images):
    once = compiled("flip", keys(N), images, None, SHAPE)
    mirrored = (once != images).any(axis=(1, 2, 3))
    assert 0 < mirrored.sum() < N
    np.testing.assert_array_equal(compiled("flip", keys(N), once, None, SHAPE), images)


@pytest.mark.parametrize("size", [(256, 256), (256, 341), (341, 256), (37, 41), (9, 9)])
def test_random_windows_keep_to_area_ratio_and_image(size):
    corner, extent = map(np.asarray, windows(keys(2000), jnp.array(size)))
    assert (corner >= 0).all() and (extent >= 1).all() and (corner + extent <= np.array(size)).all()
    # Sides were rounded to whole pixels: some sides within half a pixel keep the bounds.
    (low, high), full = (extent - 0.5, extent + 0.5), np.prod(size)
    assert (high.prod(1) >= 0.08 * full).all() and (low.prod(1) <= full).all()
    assert (high[:, 1] / low[:, 0] >= 3 / 4).all() and (low[:, 1] / high[:, 0] <= 4 / 3).all()
    touched = [corner.min(0) == 0, (corner + extent).max(0) == np.array(size)]
    assert np.all(touched)


def test_random_windows_have_uniform_area_and_log_uniform_ratio():
    extent = np.asarray(windows(keys(2000), jnp.array([1000, 1000]))[1])
    area, ratio = extent.prod(1) / 1e6, extent[:, 1] / extent[:, 0]
    small = area < 0.7  # of larger ones, the elongated do not fit and are drawn again
    for quantile in (0.25, 0.5, 0.75):  # standard error about 0.013
        assert abs(np.mean(area[small] < 0.08 + quantile * 0.62) - quantile) < 0.04
        assert abs(np.mean(np.log(ratio[small]) < (2 * quantile - 1) * np.log(4 / 3)) - quantile) < 0.04


def test_where_no_try_fits_the_window_is_the_largest_central_one():
    corners, extents = windows(keys(2000), jnp.array([10, 1000]))
    assert (corners == jnp.array([[0, (1000 - 13) // 2]])).all() and (extents == jnp.array([[10, 13]])).all()
    corners, extents = windows(keys(2000), jnp.array([1000, 10]))
    assert (corners == jnp.array([[(1000 - 13) // 2, 0]])).all() and (extents == jnp.array([[13, 10]])).all()


@pytest.mark.parametrize("shape", [(8, 8), (24, 24), (5, 9)])
def test_a_resampled_window_is_cut_first_then_resized(sheet, shape):
    boxes = np.array([(0, 0, 16, 24), (3, 5, 9, 7), (10, 17, 6, 7), (0, 0, 1, 1), (2, 1, 3, 20)])
    canvas = jnp.zeros((30, 30, 3), jnp.uint8).at[:16, :24].set(sheet)
    of_boxes = jax.jit(jax.vmap(lambda corner, extent: resample(canvas, corner, extent, shape)))
    for (top, left, height, width), got in zip(
        boxes, np.asarray(of_boxes(boxes[:, :2], boxes[:, 2:]), int), strict=True
    ):
        cut = np.ascontiguousarray(sheet[top : top + height, left : left + width])
        pillows = np.asarray(Image.fromarray(cut).resize(shape[::-1], Image.Resampling.BILINEAR), int)
        assert alike(got, pillows)  # Pillow rounds between its two passes
        if (height, width) == (16, 24):
            jaxs = np.round(np.asarray(jax.image.resize(cut.astype(np.float32), (*shape, 3), "linear")))
            assert alike(got, jaxs) and np.mean(got != jaxs) < 0.01


def test_no_black_leaks_in_from_the_canvas():
    plain = [np.full((*size, 3), 250, np.uint8) for size in ((20, 31), (31, 20), (24, 24))]
    canvases, sizes = Preprocessing((8, 8, 3)).canvas(plain * (N // 3))
    got = compiled("resized_crop", keys(N), canvases, sizes, SHAPE)
    assert (canvases == 0).any() and (got == 250).all()


def test_grey_in_one_channel_is_grey_in_three(canvases):
    pictures, sizes = canvases
    three = compiled("li2020_crop", keys(N), pictures, sizes, SHAPE)
    one = compiled("li2020_crop", keys(N), pictures[..., :1], sizes, SHAPE)
    assert one.shape == (N, *SHAPE, 1) and alike(three, np.repeat(one, 3, axis=-1))


@pytest.mark.parametrize("order", [("Brightness", "Contrast", "Color"), ("Color", "Contrast", "Brightness")])
@pytest.mark.parametrize("factors", [(0.7, 1, 1), (1, 0.6, 1), (1, 1.4, 1), (1, 1, 0.6), (1, 1, 1.3), (0.6, 0.8, 0.9)])
def test_colours_are_adjusted_as_in_pillow(sheet, order, factors):
    picture = sheet // 2 + 60  # so that nothing is clipped on the way
    expected = Image.fromarray(picture)
    by_name = dict(zip(("Brightness", "Contrast", "Color"), factors, strict=True))
    for name in order:
        expected = getattr(ImageEnhance, name)(expected).enhance(by_name[name])
    got = adjust_colours(jnp.asarray(picture), *factors)
    # Pillow rounds down after every one of the three, and the mean grey too.
    assert np.abs(np.asarray(got, int) - np.asarray(expected, int)).max() <= 3
    assert (picture != np.asarray(expected)).any()


def test_colours_are_clipped():
    ends = jnp.array([[[250, 250, 250], [5, 5, 5]]], jnp.uint8)
    assert adjust_colours(ends, 1.4, 1.4, 1.0)[0, :, 0].tolist() == [255, 0]


def test_colour_jitter_draws_its_factors_from_06_to_14():
    flat = jnp.full((4, 4, 3), 100, jnp.uint8)  # only brightness changes it
    got = np.asarray(jax.jit(jax.vmap(module.colour_jitter, (0, None)))(keys(500), flat), int)
    assert np.ptp(got, axis=(1, 2, 3)).max() == 0
    levels = got[:, 0, 0, 0]
    assert 60 <= levels.min() < 64 and 136 < levels.max() <= 140


def test_refuses(images):
    with pytest.raises(LinftError, match="no augmentation 'mixup'; choose among none, flip, crop, crop_flip"):
        augment("mixup", keys(2), images[:2], None, SHAPE)
    with pytest.raises(LinftError, match=r"flip works on images of the input size \(9, 9\), not \(8, 8\)"):
        augment("flip", keys(2), images[:2], None, (9, 9))
    with pytest.raises(LinftError, match=r"resized_crop cannot cut \(9, 9\) from canvases of \(8, 8\)"):
        augment("resized_crop", keys(2), images[:2], None, (9, 9))
