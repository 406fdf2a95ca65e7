"""Eigenvalues, label alignment and drift of kernels."""

import jax.numpy as jnp
import numpy as np
import pytest
from narrow import small_resnet

import linft
from linft.predict.spectrum import alignment, drift, spectrum


@pytest.fixture(scope="module")
def tangent():
    task = linft.load_task("digits").subset(12, 10)
    return linft.predict.tangent(small_resnet(10, width=4), task)


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_spectrum_is_that_of_the_dense_kernel(tangent, loss):
    found = spectrum(tangent, loss)
    theta = np.asarray(tangent.kernel_train.total(), np.float64).reshape(120, 120)
    np.testing.assert_allclose(found.eigenvalues, np.linalg.eigvalsh(theta)[::-1], rtol=1e-4, atol=1e-3)
    assert sum(found.label_alignment) == pytest.approx(1)
    assert sum(found.group_share.values()) == pytest.approx(1)
    shares = {g: np.trace(np.asarray(b).reshape(120, 120)) for g, b in tangent.kernel_train.blocks.items()}
    for group, share in shares.items():
        assert found.group_share[group] == pytest.approx(share / sum(shares.values()), rel=1e-4)


def test_alignment_ignores_scale_and_sees_orthogonality():
    a = jnp.array([[2.0, 1.0], [1.0, 3.0]])
    assert alignment(a, 5 * a) == pytest.approx(1)
    assert alignment(jnp.diag(jnp.array([1.0, 0.0])), jnp.diag(jnp.array([0.0, 1.0]))) == 0
    assert alignment(a, 0 * a) == 0


def test_drift_of_a_kernel_that_doubles_in_one_group():
    a, b = jnp.eye(3), jnp.ones((3, 3))
    found = drift({"low": a, "high": b}, {"low": a, "high": 2 * b})
    assert found.groups == pytest.approx({"low": 1.0, "high": 1.0})
    assert found.norm_ratio == pytest.approx(float(jnp.linalg.norm(a + 2 * b) / jnp.linalg.norm(a + b)))
    assert found.alignment < 1
