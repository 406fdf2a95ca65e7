"""Crops are exact windows: the centre is that of `resize`, corners are slices, the last five are mirrors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linft.core.base import Model
from linft.core.errors import LinftError
from linft.core.preprocessing import Preprocessing
from linft.data.crops import centre_crop, ten_crop_probabilities, ten_crops

SIZES = ((40, 40), (40, 45), (52, 40), (41, 40))


@pytest.fixture(scope="module")
def pictures(digits):
    """Pictures of several sizes, cut from a sheet of digits."""
    sheet = digits.x_train[..., 0].reshape(4, 6, 8, 8).swapaxes(1, 2).reshape(32, 48)
    sheet = np.concatenate([sheet, sheet[:, ::-1]])
    return [np.stack([part, part, 255 - part], axis=-1) for part in (sheet[:h, :w] for h, w in SIZES)]


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


def test_probabilities_are_the_mean_over_crops_in_batches_of_any_size(pictures):
    model = first_pixel()
    canvases, sizes = model.preprocessing.canvas(pictures)
    crops = ten_crops(canvases, sizes, (14, 14))
    logits = [3.0 * model.preprocessing.normalize(each)[:, 0, 0] for each in crops]
    expected = [jax.nn.softmax(each).mean(0) for each in logits]
    for batch in (1, 3, 25):
        got = ten_crop_probabilities(model, pictures, batch)
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert np.abs(jax.nn.softmax(np.mean(logits, 1)) - np.array(expected)).max() > 1e-3  # logits' mean is another thing


def test_for_a_plain_image_it_is_what_the_network_gives_for_one_crop():
    model = first_pixel()
    plain = np.full((2, 20, 30, 3), 77, np.uint8)
    one = jax.nn.softmax(model.apply(model.params, model.preprocess(plain)))
    np.testing.assert_allclose(ten_crop_probabilities(model, plain), one, rtol=1e-5)


def first_pixel() -> Model:
    """A linear model of the colour of the first pixel."""

    def forward(params, batch_stats, x):
        return x[:, 0, 0] @ params["head"]["kernel"], x[:, 0, 0]

    params = {"head": {"kernel": 3.0 * jnp.eye(3)}}
    preprocessing = Preprocessing((14, 14, 3))
    return Model("first pixel", params, {}, forward, None, "head", {"head": ("head",)}, preprocessing)
