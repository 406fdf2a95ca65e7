"""Training speed and generalization against gradient flow, dense inverses and Jensen's inequality."""

import numpy as np
import pytest
from scipy.linalg import expm

from linft import scores
from linft.core.errors import LinftError


@pytest.fixture
def kernel(many):
    return (1 + many[0] @ many[0].T / 1000) ** 2


@pytest.fixture
def residual(many):
    return np.eye(10)[many[1]] - 0.1


def test_speed_is_the_slope_of_the_loss_under_gradient_flow(kernel, residual):
    """Loss ‖e^{−tΘ} δY‖², whose slope at t = 0 is −2 δYᵀ Θ δY."""
    mean = np.trace(kernel) / len(kernel)
    t = 1e-6 / mean
    loss = [np.sum((expm(-sign * t * kernel) @ residual) ** 2) for sign in (-1, 1)]
    slope = (loss[0] - loss[1]) / (2 * t)
    expected = slope / (2 * mean * np.sum(residual**2))
    np.testing.assert_allclose(scores.training_speed(kernel, residual), expected, rtol=1e-6)


def test_speed_of_a_kernel_that_knows_nothing(residual):
    np.testing.assert_allclose(scores.training_speed(np.eye(100), residual), 1, rtol=1e-12)


@pytest.mark.parametrize("ridge", [0.0, 0.01, 1.0])
def test_generalization_is_the_quadratic_form_of_the_inverse(kernel, residual, ridge):
    kernel = kernel + np.eye(100)
    mean = np.trace(kernel) / len(kernel)
    form = np.vdot(residual, np.linalg.inv(kernel / mean + ridge * np.eye(100)) @ residual) / np.sum(residual**2)
    np.testing.assert_allclose(scores.generalization(kernel, residual, ridge), -form, rtol=1e-8)


@pytest.mark.parametrize("ridge", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(20))
def test_fast_kernels_generalize(seed, ridge):
    """Eq. 5, a law of every positive kernel and residual."""
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(12, 15)) * rng.exponential(size=15)
    kernel, residual = gradients @ gradients.T, rng.normal(size=(12, 3))
    speed, generalization = scores.training_speed(kernel, residual), scores.generalization(kernel, residual, ridge)
    assert 1 / (speed + ridge) <= -generalization * (1 + 1e-9)


def test_along_one_eigenvector_the_two_are_one(kernel):
    vector = np.linalg.eigh(kernel)[1][:, -1]
    speed = scores.training_speed(kernel, vector)
    np.testing.assert_allclose(scores.generalization(kernel, vector, 0.5), -1 / (speed + 0.5), rtol=1e-9)


def test_one_output_is_a_column(kernel, residual):
    one, column = residual[:, 0], residual[:, :1]
    assert scores.training_speed(kernel, one) == scores.training_speed(kernel, column)


def test_singular_kernels_need_a_ridge(many, residual):
    kernel = many[0] @ many[0].T  # of rank 64 at most
    with pytest.raises(scores.Undefined, match="kernel of 100 images is singular at ridge 0; give a larger ridge"):
        scores.generalization(kernel, residual)
    assert scores.generalization(kernel, residual, 0.01) < 0


def test_input_that_has_no_score(kernel):
    for score in (scores.training_speed, scores.generalization):
        with pytest.raises(scores.Undefined, match="residual is zero"):
            score(kernel, np.zeros(100))
        with pytest.raises(scores.Undefined, match="diagonal is zero"):
            score(np.zeros((100, 100)), np.ones(100))
    with pytest.raises(LinftError, match="ridge is -1"):
        scores.generalization(kernel, np.ones(100), -1.0)
