"""Crops are exact windows: the centre is that of `resize`, corners are slices, the last five are mirrors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pictures import cut

from linft.core.errors import LinftError
from linft.core.preprocessing import Preprocessing
from linft.data.crops import centre_crop, ten_crops


@pytest.fixture(scope="module")
def pictures(digits):
    return cut(digits)


def test_the_centre_of_a_canvas_is_what_resize_gives_at_a_crop_of_seven_eighths(pictures):
    preprocessing = Preprocessing((14, 14, 3), crop=7 / 8)
    canvases, sizes = preprocessing.canvas(pictures)
    got = jax.vmap(lambda canvas, size: centre_crop(canvas, size, (14, 14)))(jnp.asarray(canvases), jnp.asarray(sizes))
    np.testing.assert_array_equal(got, preprocessing.resize(pictures))


def test_ten_crops_are_corners_centre_and_mirrors(pictures):
    canvases, sizes = Preprocessing((14, 12, 3)).canvas(pictures)
    got = np.asarray(jax.jit(ten_crops, static_argnums=2)(canvases, sizes, (14, 12)))
    assert got.shape == (len(pictures), 10, 14, 12, 3) and got.dtype == np.uint8
    for crops, canvas, (height, width) in zip(got, canvases, sizes, strict=True):
        image = canvas[:height, :width]
        top, left = round((height - 14) / 2), round((width - 12) / 2)
        corners = [image[:14, :12], image[:14, -12:], image[-14:, :12], image[-14:, -12:]]
        np.testing.assert_array_equal(crops[:5], [*corners, image[top : top + 14, left : left + 12]])
        np.testing.assert_array_equal(crops[5:], crops[:5, :, ::-1])


def test_refuses_a_canvas_too_small():
    with pytest.raises(LinftError, match=r"windows of \(9, 8\) do not fit in canvases of \(8, 8\)"):
        ten_crops(jnp.zeros((1, 8, 8, 3), jnp.uint8), jnp.array([[8, 8]]), (9, 8))
