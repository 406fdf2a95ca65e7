"""Losses and accuracy on logits, as means over examples."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from linft.core.recipe import Loss

DIVERGED = 1e4  # a loss this many times the first one is beyond recovery, and would soon overflow


Labels = Int[Array, "n"] | Float[Array, "n c"]
"""Of each example the class, or the probability of every class."""


def targets(labels: Labels, like: Float[Array, "m c"], smoothing: float = 0.0) -> Float[Array, "n c"]:
    """(1 − ε) e_y + ε/C with e_y the one-hot label, or probabilities, of the type and the C classes of some logits.

    Szegedy and others 2016, section 7; as `optax.smooth_labels` and torch's `label_smoothing`.

    Example:
      >>> import jax.numpy as jnp
      >>> targets(jnp.array([1]), jnp.zeros((1, 2)), smoothing=0.5).tolist()
      [[0.25, 0.75]]
    """
    classes = like.shape[1]
    certain = jax.nn.one_hot(labels, classes, dtype=like.dtype) if labels.ndim == 1 else labels.astype(like.dtype)
    return (1 - smoothing) * certain + smoothing / classes


def per_example(loss: Loss, logits: Float[Array, "n c"], labels: Labels, smoothing: float = 0.0) -> Float[Array, "n"]:
    """Loss of each example: cross-entropy in nats to the targets, or ½‖f − target‖²."""
    if loss == "squared_error":
        return 0.5 * jnp.sum((logits - targets(labels, logits, smoothing)) ** 2, axis=1)
    log_probabilities = jax.nn.log_softmax(logits)
    if labels.ndim == 2:
        return -jnp.sum(targets(labels, logits, smoothing) * log_probabilities, axis=1)
    of_label = -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
    return (1 - smoothing) * of_label - smoothing * jnp.mean(log_probabilities, axis=1) if smoothing else of_label


def mean_loss(loss: Loss, logits: Float[Array, "n c"], labels: Labels, smoothing: float = 0.0) -> Float[Array, ""]:
    """Mean loss over the examples, of targets smoothed by ε.

    Example:
      >>> import jax.numpy as jnp
      >>> float(mean_loss("squared_error", jnp.zeros((2, 3)), jnp.array([0, 2])))
      0.5
    """
    return jnp.mean(per_example(loss, logits, labels, smoothing))


def accuracy(logits: Float[Array, "n c"], labels: Int[Array, "n"]) -> Float[Array, ""]:
    """Share of examples whose largest logit is their label's."""
    return jnp.mean(jnp.argmax(logits, axis=1) == labels, dtype=logits.dtype)


def gradient(loss: Loss, logits: Float[Array, "n c"], labels: Labels, smoothing: float = 0.0) -> Float[Array, "n c"]:
    """∂(mean loss)/∂logits: (softmax(f) − target)/b, or (f − target)/b."""
    return jax.grad(mean_loss, argnums=1)(loss, logits, labels, smoothing)


def has_diverged(loss: ArrayLike, first: ArrayLike) -> Bool[Array, "..."]:
    """Whether a loss is not finite, or 10⁴ times the larger of the first loss and 1."""
    return ~(jnp.asarray(loss) < DIVERGED * jnp.maximum(first, 1.0))
