"""AlexNet pools as torch does, and drops units in training mode alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linft.core.preprocessing import Preprocessing
from linft.models import create
from linft.models.architectures.alexnet import adaptive_pool


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
