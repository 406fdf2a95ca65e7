"""Ten-crop testing averages the probabilities of exact crops, not their logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pictures import cut

from linft.core.base import Model
from linft.core.preprocessing import Preprocessing
from linft.data.crops import ten_crops
from linft.training.ten_crop import ten_crop_probabilities


@pytest.fixture(scope="module")
def pictures(digits):
    return cut(digits)


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
