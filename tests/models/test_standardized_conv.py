"""Standardized kernels have no mean and unit deviation, so that neither may be changed from outside."""

import jax
import jax.numpy as jnp
import numpy as np

from linft.core.preprocessing import Preprocessing
from linft.models import create
from linft.models.architectures.standardized_conv import StandardizedConv, standardized


def test_every_output_channel_is_standardized():
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 4, 5)) + 2
    found = np.asarray(standardized(kernel))
    np.testing.assert_allclose(found.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(found.std((0, 1, 2)), 1, rtol=1e-5)


def test_is_the_plain_convolution_by_the_standardized_kernel():
    x, layer = jax.random.normal(jax.random.key(1), (2, 9, 8, 4)), StandardizedConv(5, (3, 3), (2, 2), ((1, 1), (1, 1)))
    params = layer.init(jax.random.key(0), x)["params"]
    kernel, padded = standardized(params["kernel"]), np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = np.stack([padded[:, i : i + 9 : 2, j : j + 8 : 2] for i in range(3) for j in range(3)], axis=3)
    expected = np.einsum("nhwti,tio->nhwo", patches, kernel.reshape(9, 4, 5))
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, rtol=1e-4, atol=1e-5)


def test_bit_does_not_see_scale_and_shift_of_its_kernels():
    preprocessing = Preprocessing((32, 32, 3))
    model = create("resnetv2_50x1_bit", 3, jax.random.key(0), preprocessing, blocks=(1, 1), width=4, groups=2)
    x = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    moved = jax.tree.map(lambda leaf: 3 * leaf - 0.5 if leaf.ndim == 4 else leaf, model.params)
    apply = jax.jit(model.apply)
    np.testing.assert_allclose(apply(moved, x), apply(model.params, x), rtol=1e-4, atol=1e-5)
    assert not model.batch_stats
    assert jnp.abs(apply(model.params, x)).min() > 1e-3
