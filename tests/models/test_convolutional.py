"""DenseNet, MobileNet v1, Inception v4 and AlexNet have the sizes of their papers, and AlexNet torch's pool."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linft.core import trees
from linft.core.preprocessing import Preprocessing
from linft.models import ARCHITECTURES, create, registry
from linft.models.architectures.alexnet import adaptive_pool

# Parameters as torchvision and timm count them, with 1000 classes.
COUNTS = {
    "densenet121": 7_978_856,
    "densenet169": 14_149_480,
    "mobilenet_v1": 4_231_976,
    "inception_v4": 42_679_816,
    "alexnet": 61_100_840,
}

# Height and channels, or features, after the stem and each stage, as the papers' tables have them.
SIZES = {
    "densenet121": [(56, 64), (56, 256), (28, 512), (14, 1024), (7, 1024)],
    "densenet169": [(56, 64), (56, 256), (28, 512), (14, 1280), (7, 1664)],
    "mobilenet_v1": [(112, 32), (112, 64), (56, 128), (28, 256), (14, 512), (7, 1024)],
    "inception_v4": [(35, 384), (35, 384), (17, 1024), (8, 1536)],
    "alexnet": [(27, 64), (13, 192), (6, 256), (4096,)],
}


@pytest.mark.parametrize("name", COUNTS)
def test_number_of_parameters(name):
    assert trees.count(registry.shapes(name, 1000)["params"]) == COUNTS[name]


@pytest.mark.parametrize("name", SIZES)
def test_sizes_along_the_way(name):
    row = ARCHITECTURES[name]
    module = row.build(num_classes=10)

    def outputs(variables, x):
        return module.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])[1]["intermediates"]

    x = jax.ShapeDtypeStruct((1, *row.preprocessing.input_size), jnp.float32)
    found = jax.eval_shape(outputs, registry.shapes(name, 10), x)
    shapes = [found[group]["__call__"][0].shape for group in list(trees.stages(registry.layer_groups(name, {})))[:-1]]
    assert [(shape[1], *shape[3:]) for shape in shapes] == SIZES[name]


@pytest.mark.parametrize("size", [(6, 6), (7, 13), (4, 18)])
def test_adaptive_pool_averages_the_windows_that_each_output_touches(size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    got = adaptive_pool(jnp.asarray(x), 6)
    for i in range(6):
        for j in range(6):
            # Pixel p spans [p/h, (p+1)/h] of the image and output i spans [i/6, (i+1)/6].
            rows, columns = (
                [p for p in range(n) if (p + 1) * 6 > k * n and p * 6 < (k + 1) * n]
                for n, k in zip(size, (i, j), strict=True)
            )
            expected = x[:, rows][:, :, columns].mean((1, 2))
            np.testing.assert_allclose(got[:, i, j], expected, rtol=1e-5, atol=1e-6)


def test_alexnet_drops_half_of_the_units_in_training_mode_alone():
    model = create("alexnet", 3, jax.random.key(0), Preprocessing((63, 63, 3)), width=1)
    x = jax.random.normal(jax.random.key(1), (8, 63, 63, 3))

    def first_dropout(**mode):
        dropout = {"capture_intermediates": lambda module, _: module.name == "Dropout_0", "mutable": ["intermediates"]}
        _, found = model.module.apply({"params": model.params}, x, **mode, **dropout)
        return np.asarray(found["intermediates"]["stage3"]["Dropout_0"]["__call__"][0])

    units = first_dropout()
    kept = first_dropout(train=True, rngs={"dropout": jax.random.key(2)})
    active, chosen = units > 0, kept > 0
    np.testing.assert_allclose(kept[chosen], 2 * units[chosen], rtol=1e-5)  # twice, so that the mean is right
    assert chosen.sum() / active.sum() == pytest.approx(0.5, abs=0.1)


def test_every_step_of_training_drops_others():
    model = create("alexnet", 3, jax.random.key(0), Preprocessing((63, 63, 3)), width=1)
    x = jax.random.normal(jax.random.key(1), (2, 63, 63, 3))
    train = jax.jit(lambda key: model.forward_train(model.params, model.batch_stats, x, key)[0])
    first, again, other = (np.asarray(train(jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
