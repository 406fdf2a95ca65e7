"""A model to first order in its weights: of the whole network, or of its features only."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from linft.core import trees
from linft.core.base import BatchNorm, Model, dense
from linft.core.errors import LinftError
from linft.core.trees import Tree
from linft.models.batch_norm import TrainingMode, training_mode


def linearize(model: Model, at: Literal["logits", "features"] = "logits", batch_norm: BatchNorm = "frozen") -> Model:
    """The model's first-order expansion around its weights w0, itself a Model.

    logits:    f(w) = f(w0) + J_f (w − w0), linear in w.
    features:  φ(w) = φ(w0) + J_φ (w − w0) and f = φ(w) W + b with the head (W, b) exact: bilinear.

    One Jacobian-vector product. The full linearization is that of Jacot and others 2018 and of Deshpande and
    others 2021 (section 3.1), which have no batch norm.

    Args:
      batch_norm: frozen, so that there is no training mode; or train, which has one: the network in training
        mode to first order, its minibatch's statistics differentiated too, as are the running averages.

    Raises:
      LinftError: batch_norm="train" of a model without training mode.

    Example:
      >>> import jax, jax.numpy as jnp, linft
      >>> model = linft.models.create("cifar_resnet8", 3, jax.random.key(0), width=4)
      >>> linear, x = linearize(model), jnp.ones((2, 32, 32, 3))
      >>> bool(jnp.allclose(linear.apply(model.params, x), model.apply(model.params, x)))
      True
    """
    start = model.params

    def expand(params: Tree, batch_stats: Tree, x: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        return jax.jvp(lambda p: model.forward(p, batch_stats, x), (start,), (trees.subtract(params, start),))

    def to_first_order(params: Tree, batch_stats: Tree, x: Array) -> tuple[Array, Array]:
        if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, start):
            raise LinftError("the weights differ in shape from those linearized at; change the head before linearize")
        (logits, features), (d_logits, d_features) = expand(params, batch_stats, x)
        return logits + d_logits, features + d_features

    def features_to_first_order(params: Tree, batch_stats: Tree, x: Array) -> tuple[Array, Array]:
        backbone = trees.put(params, model.head, trees.get(start, model.head))  # the head does not move features
        (_, features), (_, d_features) = expand(backbone, batch_stats, x)
        features = features + d_features
        return dense(trees.get(params, model.head), features), features

    forwards = {"logits": to_first_order, "features": features_to_first_order}
    if at not in forwards:
        raise LinftError(f"linearize(at={at!r}); choose among {', '.join(forwards)}")
    suffix = "linearized" if at == "logits" else "features linearized"
    name = f"{model.name} ({suffix})"
    train = _training(model, at) if batch_norm == "train" else None
    return model.replace(name=name, forward=forwards[at], forward_train=train, module=None, architecture=None)


def _training(model: Model, at: str) -> TrainingMode:
    """Training mode to first order around the model's weights."""
    train, start = training_mode(model), model.params

    def to_first_order(around: Tree, params: Tree, batch_stats: Tree, x: Array, key: Array) -> tuple[Array, Tree]:
        moved = trees.subtract(params, around)
        found, change = jax.jvp(lambda p: train(p, batch_stats, x, key), (around,), (moved,))
        return jax.tree.map(jnp.add, found, change)

    def features_to_first_order(params: Tree, batch_stats: Tree, x: Array, key: Array) -> tuple[Array, Tree]:
        head = trees.get(params, model.head)
        identity = {"kernel": jnp.eye(len(head["kernel"]), dtype=head["kernel"].dtype)}
        if "bias" in head:
            identity["bias"] = jnp.zeros(len(head["kernel"]), head["kernel"].dtype)
        around, below = (trees.put(p, model.head, identity) for p in (start, params))
        features, batch_stats = to_first_order(around, below, batch_stats, x, key)  # the logits of that head
        return dense(head, features), batch_stats

    return partial(to_first_order, start) if at == "logits" else features_to_first_order
