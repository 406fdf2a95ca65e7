"""Eigenvalues and label alignment of kernels."""

import numpy as np
import pytest
from narrow import small_resnet

import linft
from linft.predict.spectrum import spectrum


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
