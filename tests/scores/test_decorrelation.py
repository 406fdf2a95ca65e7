"""The decorrelation gap against explicit gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linft import scores
from linft.core.errors import LinftError


def layer(many, positions):
    """What goes into a layer and the gradient of its output, at some positions of an image."""
    x, y = many
    shape = (len(x), positions, -1) if positions else (len(x), -1)
    return x.reshape(shape), np.sin(x[:, ::-1]).reshape(shape), y


@pytest.mark.parametrize("positions", [0, 1, 4])
def test_gap_of_explicit_gradients(many, positions):
    inputs, gradients, y = layer(many, positions)
    sum_over = (lambda z: z) if not positions else (lambda z: z.sum(1))
    mean = gradients.mean(0) if not positions else gradients.mean((0, 1))
    outer = np.einsum("n...q,n...p->n...qp", gradients, inputs)
    exact = sum_over(outer).reshape(len(y), -1)
    same = np.where(y[:, None] == y, 1.0, -1.0)
    a = np.vdot(same - same.mean(), exact @ exact.T)
    total = sum_over(inputs)
    b = mean @ mean * np.vdot(same - same.mean(), total @ total.T)
    expected = (a - b) / (abs(a) + abs(b))
    np.testing.assert_allclose(scores.decorrelation_gap(inputs, gradients, y), expected, rtol=1e-10)


def test_no_gap_where_gradients_do_not_depend_on_the_image(many):
    x, y = many
    gradients = np.broadcast_to(np.arange(1.0, 4.0), (len(x), 3))
    np.testing.assert_allclose(scores.decorrelation_gap(x, gradients, y), 0, atol=1e-12)


def test_gap_keeps_under_rotations(many):
    inputs, gradients, y = layer(many, 4)
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0]
    expected = scores.decorrelation_gap(inputs, gradients, y)
    np.testing.assert_allclose(scores.decorrelation_gap(inputs @ basis, 9 * gradients, y), expected, rtol=1e-10)
    np.testing.assert_allclose(scores.decorrelation_gap(inputs, gradients @ basis, y), expected, rtol=1e-10)


def test_gap_of_a_real_layer(digits):
    """Two classes of eq. 7: Yᵀ Θ Y of a dense layer by jax.grad is N² ‖E[y J ⊗ a]‖², as appendix A has it."""
    y = digits.y_train % 2
    signs = 1.0 - 2 * y
    x = digits.x_train.reshape(len(y), -1)[:, ::7].astype(np.float64) / 255
    key = jax.random.key(0)
    hidden, out = jax.random.normal(key, (x.shape[1], 5)), jax.random.normal(key, (5,))
    after = lambda z: jnp.tanh(z) @ out  # noqa: E731
    z = jnp.asarray(x, jnp.float32) @ hidden
    gradients = np.asarray(jax.vmap(jax.grad(after))(z), np.float64)
    explicit = np.asarray(jax.vmap(jax.grad(lambda w, a: after(a @ w)), (None, 0))(hidden, jnp.asarray(x, jnp.float32)))
    theta = explicit.reshape(len(y), -1) @ explicit.reshape(len(y), -1).T
    outer = np.mean(signs[:, None, None] * np.einsum("nq,np->npq", gradients, x), axis=0)
    np.testing.assert_allclose(signs @ theta @ signs, len(y) ** 2 * np.sum(outer**2), rtol=1e-4)
    same = np.where(y[:, None] == y, 1.0, -1.0)
    a, b = (np.vdot(same - same.mean(), each) for each in (theta, np.sum(gradients.mean(0) ** 2) * x @ x.T))
    np.testing.assert_allclose(scores.decorrelation_gap(x, gradients, y), (a - b) / (abs(a) + abs(b)), rtol=1e-4)


def test_gap_of_images_that_do_not_match(many):
    inputs, gradients, y = layer(many, 4)
    with pytest.raises(LinftError, match="do not belong together"):
        scores.decorrelation_gap.__wrapped__(inputs, gradients[:, :2], y)


def test_gap_of_nothing():
    with pytest.raises(scores.Undefined, match="neither"):
        scores.decorrelation_gap(np.zeros((4, 2)), np.zeros((4, 3)), np.array([0, 0, 1, 1]))
