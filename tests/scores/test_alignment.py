"""Label-gradient and label-feature correlation against numpy and each other, and the error against its spread."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from narrow import small_resnet

import linft
from linft import scores
from linft.core.errors import LinftError
from linft.scores import arrays
from linft.scores.alignment import alignment_error
from linft.scores.gather import ScoreGradients, gather


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
        (lambda: arrays.square.__wrapped__(np.ones((3, 4)), 3), r"shape \(3, 4\) for 3 images; give \[n n\]"),
        (lambda: arrays.labelled.__wrapped__(x, y[1:]), "100 rows of features and 99 labels; give one label a row"),
        (lambda: arrays.image_features.__wrapped__(x[0]), r"features have shape \(64,\); give one row an image"),
    ):
        with pytest.raises(LinftError, match=reason):
            call()


def test_the_error_is_the_spread_over_draws():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 5)
    features = np.eye(4)[y] + 0.5 * rng.normal(size=(20, 4))
    kernel, errors = features @ features.T, 0.02 * rng.uniform(0.5, 1.5, size=(20, 20))
    errors = (errors + errors.T) / 2

    def drawn():
        noise = np.tril(rng.normal(size=(20, 20)) * errors)
        return scores.lgc(kernel + noise + np.tril(noise, -1).T, y)

    spread = np.std([drawn() for _ in range(2000)])
    np.testing.assert_allclose(alignment_error(kernel, errors, y), spread, rtol=0.06)


def test_a_projected_kernel_is_off_by_about_as_much(digits):
    model = small_resnet(4, width=16)
    exact = scores.lgc(gather(model, digits, ("kernel",), gradients=ScoreGradients(("stage1",))).kernel, digits.y_train)
    some = gather(model, digits, ("kernel",), gradients=ScoreGradients(("stage1",), dimensions=512))
    told = alignment_error(some.kernel, some.kernel_error, digits.y_train)
    assert 0 < told < 0.2
    assert 0 < abs(scores.lgc(some.kernel, digits.y_train) - exact) < 5 * told
