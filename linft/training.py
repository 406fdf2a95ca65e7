"""Training by a recipe: the state, and the compiled step that takes it on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from linft import losses, optim, trees
from linft.base import Model
from linft.data.augment import augment
from linft.errors import LinftError
from linft.optim import Settings
from linft.recipe import Recipe
from linft.trees import Groups, Tree


def steps_per_call() -> int:
    """Several on an accelerator; one on CPU, where XLA runs convolutions inside a scan 20 to 40 times slower."""
    return 1 if jax.default_backend() == "cpu" else 16


class State(NamedTuple):
    """What a training step takes and gives."""

    params: Tree
    batch_stats: Tree
    opt_state: Any
    step: Array


def training(model: Model, structure: Recipe, groups: Groups) -> tuple[Callable[[Settings], State], Callable]:
    """The first state, and a jitted, buffer-donating (state, batches [k b], numbers, key, images, labels) -> state."""
    train_mode = structure.batch_norm == "train"
    if train_mode and model.forward_train is None:
        raise LinftError(
            'this model has no training-mode batch norm (a linearized model never has); use batch_norm="frozen"'
        )
    tree_labels = trees.labels(model.params, groups)
    to_pretrained = structure.decay_towards == "pretrained"
    reference = model.params if to_pretrained else jax.tree.map(jnp.zeros_like, model.params)

    def begin_state(numbers: Settings) -> State:
        params, batch_stats = jax.tree.map(jnp.copy, (model.params, model.batch_stats))  # donated: not the model's own
        optimizer = optim.transform(structure, numbers, tree_labels, reference)
        return State(params, batch_stats, optimizer.init(model.params), jnp.zeros((), jnp.int32))

    def loss_of(params: Tree, batch_stats: Tree, x: Array, y: Array, key: Array) -> tuple[Array, Tree]:
        if train_mode:
            logits, batch_stats = model.forward_train(params, batch_stats, x, key)  # pyright: ignore
        else:
            logits = model.forward(params, batch_stats, x)[0]
        return losses.mean_loss(structure.loss, logits, y), batch_stats

    def one_step(state: State, batch: Array, numbers: Settings, key: Array, images: Array, labels: Array) -> State:
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        x = model.preprocessing.normalize(augment(structure.augmentation, augment_key, images[batch]))
        gradients, batch_stats = jax.grad(loss_of, has_aux=True)(
            state.params, state.batch_stats, x, labels[batch], dropout_key
        )
        optimizer = optim.transform(structure, numbers, tree_labels, reference)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        return State(optax.apply_updates(state.params, updates), batch_stats, opt_state, state.step + 1)

    def advance(state: State, batches: Array, *rest: Any) -> State:
        if len(batches) == 1:
            return one_step(state, batches[0], *rest)
        return jax.lax.scan(lambda s, b: (one_step(s, b, *rest), None), state, batches)[0]

    return begin_state, jax.jit(advance, donate_argnums=0)
