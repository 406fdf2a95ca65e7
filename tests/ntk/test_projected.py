"""The kernel of projected gradients: exact where nothing is projected, elsewhere off by what it says."""

import jax.numpy as jnp
import numpy as np
import pytest

from linft.core.errors import LinftError
from linft.ntk.empirical import empirical_ntk
from linft.ntk.projected import projected_ntk

CLASSES, K = 3, 256
PROJECTED = ("stem", "stage1")  # have convolutions of 576 and 1176 numbers


@pytest.mark.parametrize("outputs", ["full", "trace", pytest.param("pseudo", marks=pytest.mark.slow)])
def test_is_off_by_its_standard_error(model, images, outputs):
    exact = empirical_ntk(model, images[:12], images[12:], outputs=outputs).blocks
    kernel, error = projected_ntk(model, images[:12], images[12:], outputs=outputs, dimensions=K)
    assert list(kernel.blocks) == list(exact)
    for group, block in exact.items():
        difference, expected = np.asarray(kernel.blocks[group] - block), np.asarray(error[group])
        if group in PROJECTED:
            assert 0.5 < np.sqrt((difference**2).mean() / (expected**2).mean()) < 2
        else:
            assert not expected.any()
            np.testing.assert_allclose(difference, 0, atol=2e-6 * np.linalg.norm(block))


def test_is_one_kernel_whatever_the_batches(model, images):
    """Symmetric, positive semidefinite to rounding, and the same in batches of any size."""
    whole = projected_ntk(model, images[:6], outputs="full", dimensions=K).kernel.total()
    cut = projected_ntk(model, images[:6], outputs="full", dimensions=K, batch_size=4).kernel.total()
    np.testing.assert_allclose(cut, whole, rtol=0, atol=2e-6 * np.linalg.norm(whole))
    matrix = np.asarray(whole, np.float64).reshape(6 * CLASSES, -1)
    np.testing.assert_array_equal(matrix, matrix.T)
    assert np.linalg.eigvalsh(matrix)[0] > -1e-6 * np.linalg.norm(matrix)


@pytest.mark.slow
def test_more_dimensions_are_closer_and_enough_are_exact(model, images):
    exact = empirical_ntk(model, images[:6], outputs="trace").total()

    def error(k: int) -> float:
        return float(jnp.linalg.norm(projected_ntk(model, images[:6], dimensions=k).kernel.total() - exact))

    assert error(1176) < 1e-5 * float(jnp.linalg.norm(exact)) < error(512) < error(64)


def test_refuses(model, images):
    with pytest.raises(LinftError, match="projection is 8 dimensions; give 16 or more"):
        projected_ntk(model, images[:2], dimensions=8)
    with pytest.raises(LinftError, match="no layer group stage9"):
        projected_ntk(model, images[:2], groups=["stage9"])
