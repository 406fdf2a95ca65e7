"""Losses and accuracy on logits, as means over examples."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from linft.core.recipe import Loss

DIVERGED = 1e4  # a loss this many times the first one is beyond recovery, and would soon overflow


def per_example(loss: Loss, logits: Float[Array, "n c"], labels: Int[Array, "n"]) -> Float[Array, "n"]:
    """Loss of each example: cross-entropy in nats, or ½‖f − e_y‖² with e_y the one-hot label."""
    if loss == "cross_entropy":
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]
    return 0.5 * jnp.sum((logits - jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)) ** 2, axis=1)


def mean_loss(loss: Loss, logits: Float[Array, "n c"], labels: Int[Array, "n"]) -> Float[Array, ""]:
    """Mean loss over the examples.

    Example:
      >>> import jax.numpy as jnp
      >>> float(mean_loss("squared_error", jnp.zeros((2, 3)), jnp.array([0, 2])))
      0.5
    """
    return jnp.mean(per_example(loss, logits, labels))


def accuracy(logits: Float[Array, "n c"], labels: Int[Array, "n"]) -> Float[Array, ""]:
    """Share of examples whose largest logit is their label's."""
    return jnp.mean(jnp.argmax(logits, axis=1) == labels, dtype=logits.dtype)


def gradient(loss: Loss, logits: Float[Array, "b c"], labels: Int[Array, "b"]) -> Float[Array, "b c"]:
    """∂(mean loss)/∂logits: (softmax(f) − e_y)/b, or (f − e_y)/b."""
    return jax.grad(mean_loss, argnums=1)(loss, logits, labels)


def has_diverged(loss: ArrayLike, first: ArrayLike) -> Bool[Array, "..."]:
    """Whether a loss is not finite, or 10⁴ times the larger of the first loss and 1."""
    return ~(jnp.asarray(loss) < DIVERGED * jnp.maximum(first, 1.0))
