"""Losses are those of optax, and their gradients those of the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linft.core import losses

LOGITS = np.random.default_rng(0).normal(0, 3, (5, 4))
LABELS = np.array([0, 3, 1, 1, 2])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_loss_and_gradient_are_those_of_smoothed_targets(x64, loss, smoothing):
    targets = optax.smooth_labels(jnp.eye(4)[LABELS], smoothing)
    reference = {
        "cross_entropy": lambda f: optax.softmax_cross_entropy(f, targets),
        "squared_error": lambda f: optax.l2_loss(f, targets).sum(1),
    }[loss]
    logits, labels = jnp.asarray(LOGITS), jnp.asarray(LABELS)
    np.testing.assert_allclose(losses.targets(labels, logits, smoothing), targets, rtol=1e-15)
    np.testing.assert_allclose(losses.per_example(loss, logits, labels, smoothing), reference(logits), rtol=1e-12)
    outputs = {"cross_entropy": jax.nn.softmax(logits), "squared_error": logits}[loss]
    expected = (outputs - targets) / len(LABELS)
    np.testing.assert_allclose(losses.gradient(loss, logits, labels, smoothing), expected, atol=1e-15)


def test_a_logit_of_minus_infinity_that_is_not_the_label_costs_nothing():
    found = losses.per_example("cross_entropy", jnp.array([[0.0, -jnp.inf]]), jnp.array([0]))
    np.testing.assert_array_equal(found, [0.0])
