"""Label-gradient and label-feature correlation against numpy, each other, and explicit gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linft
from linft import scores
from linft.core.errors import LinftError
from linft.scores import inputs


def pearson(kernel, y):
    return np.corrcoef(kernel.ravel(), np.where(y[:, None] == y, 1, -1).ravel())[0, 1]


def test_correlation_of_all_entries(digits_as_features):
    x, y = digits_as_features
    np.testing.assert_allclose(scores.lfc(x, y), pearson(x @ x.T, y), rtol=1e-12)
    np.testing.assert_allclose(scores.lgc((x @ x.T) ** 2, y), pearson((x @ x.T) ** 2, y), rtol=1e-12)


def test_the_kernel_of_the_labels_themselves(many):
    y = many[1]
    same = np.where(y[:, None] == y, 1.0, -1.0)
    np.testing.assert_allclose(scores.alignment(3 * same + 5, y), 1, rtol=1e-12)
    np.testing.assert_allclose(scores.alignment(-same, y), -1, rtol=1e-12)


class Linear(nn.Module):
    """Pixels and a head."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(10, name="head")(x.reshape(len(x), -1))


def test_of_a_last_linear_layer_they_are_one(digits):
    """The bias adds the same to all entries of the kernel, which eq. 8 takes away."""
    variables = Linear().init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    model = linft.from_flax(Linear(), variables, "head", (8, 8, 1))
    x = model.preprocess(digits.x_train)
    kernel = linft.empirical_ntk(model, x, outputs="trace").total()
    features = model.features_of(digits.x_train)
    assert features.shape == (24, 64)
    np.testing.assert_allclose(scores.lgc(kernel, digits.y_train), scores.lfc(features, digits.y_train), rtol=1e-4)


def test_a_constant_kernel():
    with pytest.raises(scores.Undefined, match="constant"):
        scores.lgc(np.full((4, 4), 0.1), np.array([0, 0, 1, 1]))


def test_arrays_that_do_not_match(many):
    """Annotations, which are checked only in tests, are stripped here of one function at a time."""
    x, y = many
    for call, reason in (
        (lambda: inputs.square.__wrapped__(np.ones((3, 4)), 3), r"shape \(3, 4\) for 3 images; give \[n n\]"),
        (lambda: inputs.labelled.__wrapped__(x, y[1:]), "100 rows of features and 99 labels; give one label a row"),
        (lambda: inputs.image_features.__wrapped__(x[0]), r"features have shape \(64,\); give one row an image"),
    ):
        with pytest.raises(LinftError, match=reason):
            call()


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
    assert -1 < scores.decorrelation_gap(x, gradients, y) < 1


def test_gap_of_images_that_do_not_match(many):
    inputs, gradients, y = layer(many, 4)
    with pytest.raises(LinftError, match="do not belong together"):
        scores.decorrelation_gap.__wrapped__(inputs, gradients[:, :2], y)


def test_gap_of_nothing():
    with pytest.raises(scores.Undefined, match="neither"):
        scores.decorrelation_gap(np.zeros((4, 2)), np.zeros((4, 3)), np.array([0, 0, 1, 1]))
