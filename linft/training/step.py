"""The training step: the state of a run, and the compiled function that takes it on by a recipe."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from linft.core import losses, parallel, trees
from linft.core.base import Model
from linft.core.errors import LinftError
from linft.core.preprocessing import Preprocessing
from linft.core.recipe import Recipe
from linft.core.trees import Tree
from linft.data.augment import augment
from linft.data.stream import Batch
from linft.models import batch_norm
from linft.training import optimizer
from linft.training.optimizer import Settings

Penalty = Callable[[Tree, Tree, Array], Float[Array, ""]]
"""(params, batch_stats, x) -> what is added to the loss."""


SHORT = 1024
"""Steps up to which all runs share what is compiled; from there on, those up to the next power of two."""


@dataclass(frozen=True)
class Execution:
    """How steps are computed: nothing here changes what is computed, but for rounding.

    With batch norm in training mode, statistics are of one part of an accumulated batch.
    """

    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network; parameters, their gradients and the loss stay in float32."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after another, where it does not fit at once."""
    mesh: Mesh | None = None
    """Devices that share the rows of a batch, from `parallel.mesh`; None: one device."""

    def check(self, batch: int) -> None:
        """Refuse a batch that cannot be divided."""
        parts = self.accumulate * (1 if self.mesh is None else self.mesh.size)
        if self.accumulate < 1 or batch % parts:
            raise LinftError(
                f"a batch of {batch} cannot be divided into {parts} equal parts "
                "(accumulation times devices); choose a multiple"
            )


def steps_per_call() -> int:
    """Several on an accelerator; one on CPU, where XLA runs convolutions inside a scan 20 to 40 times slower."""
    return 1 if jax.default_backend() == "cpu" else 16


class State(NamedTuple):
    """What a training step takes and gives."""

    params: Tree
    batch_stats: Tree
    opt_state: Any
    step: Array
    average: tuple[Tree, Tree] | None = None
    """Of params and batch_stats, where the recipe has one."""

    @property
    def measured(self) -> tuple[Tree, Tree]:
        """The params and batch_stats at which a run is measured, and ends: the averages, where there are any."""
        return (self.params, self.batch_stats) if self.average is None else self.average


Advance = Callable[[State, Batch, Batch | None], tuple[State, Float[Array, "k"]]]
"""(state, batches, held) -> (state after k steps, the batches' losses)."""


def begin_training(
    model: Model, recipe: Recipe, n: int, execution: Execution = Execution(), penalty: Penalty | None = None
) -> tuple[State, Advance]:
    """The first state of a run on n training images, and the compiled function that takes a state k steps on.

    The function gives up the state that it takes. A batch names its images by their index among `held`, all
    training images on the device, or holds them itself (held None). Randomness is drawn from seed, step and
    image index, so that it depends neither on how a batch is divided nor on where a run was resumed. Recipes
    of one structure share what is compiled.
    """
    groups = optimizer.groups_for(recipe, model.layer_groups)
    labels = trees.labels(model.params, groups)
    settings = _of_any_length(optimizer.settings(recipe, tuple(dict.fromkeys(jax.tree.leaves(labels))), n))
    params, batch_stats = jax.tree.map(jnp.copy, (model.params, model.batch_stats))  # donated: not the model's own
    average = jax.tree.map(jnp.copy, (params, batch_stats)) if recipe.ema > 0 else None
    opt_state = optimizer.transform(settings, labels, model.params).init(params)
    start = State(params, batch_stats, opt_state, jnp.zeros((), jnp.int32), average)
    state = parallel.replicate(execution.mesh, start)
    settings, origin = parallel.replicate(execution.mesh, (settings, model.params))
    train_mode = recipe.batch_norm == "train"
    forward_train = batch_norm.over_parts(model, recipe.bn_batch_size).forward_train if train_mode else None
    named = tuple((group, tuple(prefixes)) for group, prefixes in groups.items())
    compiled = _advance(model.forward, forward_train, model.preprocessing, named, execution, penalty)
    return state, partial(compiled, settings=settings, origin=origin)


def _of_any_length(settings: Settings) -> Settings:
    """The settings with rates beyond the last step, so that runs of other lengths share what is compiled."""
    steps = len(settings.rates)
    beyond = max(SHORT, 1 << steps.bit_length()) - steps
    return replace(settings, rates=jnp.asarray(np.pad(np.asarray(settings.rates), (0, beyond))))


def met(
    structure: Recipe, batch: Batch, key: Array, part: Any, shape: tuple[int, int], dtype: Any
) -> tuple[Array, Float[Array, ""] | None, Array]:
    """The images of a batch as a step meets them, augmented and mixed: pixels, and a key for what else is random.

    Also the weight λ of mixup, None without: an image is λ times its own and 1 − λ times that of its partner.
    """
    augment_key, rest = jax.random.split(key)
    mix_key, other_key = jax.random.split(jax.random.fold_in(rest, part))
    keys = jax.vmap(lambda index: jax.random.fold_in(augment_key, index))(batch.index)
    images = augment(structure.augmentation, keys, batch.images, batch.sizes, shape)
    if structure.mixup == 0:
        return images, None, other_key
    weight = jax.random.beta(mix_key, structure.mixup, structure.mixup, dtype=dtype)
    pixels = images.astype(dtype)
    return weight * pixels + (1 - weight) * partners(pixels), weight, other_key


def partners(of_batch: Any) -> Any:
    """With what each of a batch is mixed: the batch in reverse, whose order is random anyhow."""
    return of_batch[::-1]


# Models of one architecture share `forward`, and so what is compiled; few are kept, since some hold weights.
@lru_cache(maxsize=8)
def _advance(
    forward: Callable,
    forward_train: Callable | None,
    preprocessing: Preprocessing,
    groups: tuple[tuple[str, tuple[str, ...]], ...],
    execution: Execution,
    penalty: Penalty | None,
) -> Callable:
    """(state, batches, held, settings, origin) -> (state, losses): a step depends on a model by its functions only."""
    height, width, _ = preprocessing.input_size
    dtype = jnp.dtype(execution.precision)

    def loss_of(
        params: Tree, batch_stats: Tree, batch: Batch, key: Array, part: Any, structure: Recipe
    ) -> tuple[Array, Tree]:
        """Mean loss over a batch, or a part of one."""
        images, weight, dropout_key = met(structure, batch, key, part, (height, width), trees.precision(params))
        x = preprocessing.normalize(images, trees.precision(params))
        compute, inputs = (params, x) if dtype == jnp.float32 else _cast((params, x), dtype)
        if forward_train is not None:
            logits, batch_stats = forward_train(compute, batch_stats, inputs, dropout_key)
        else:
            logits = forward(compute, batch_stats, inputs)[0]
        logits = logits.astype(x.dtype)

        def towards(labels: Array) -> Array:
            return losses.mean_loss(structure.loss, logits, labels, structure.label_smoothing)

        loss = towards(batch.labels)
        if weight is not None:
            loss = weight * loss + (1 - weight) * towards(partners(batch.labels))
        if penalty is not None:
            loss = loss + structure.delta * penalty(compute, batch_stats, inputs)
        return loss, batch_stats

    def one_step(state: State, batch: Batch, held: Batch | None, settings: Settings, origin: Tree) -> tuple:
        if held is not None:
            rows = batch.index
            batch = jax.tree.map(lambda of_all: of_all[rows], held)
        key = jax.random.fold_in(jax.random.key(settings.seed), state.step)
        gradient_of = jax.value_and_grad(partial(loss_of, structure=settings.structure), has_aux=True)

        def of_part(carry: tuple, part: tuple[Batch, Array]) -> tuple[tuple, None]:
            total, gradients, batch_stats = carry
            (loss, batch_stats), gradient = gradient_of(state.params, batch_stats, part[0], key, part[1])
            return (total + loss, jax.tree.map(jnp.add, gradients, gradient), batch_stats), None

        k = execution.accumulate
        if k == 1:
            (loss, batch_stats), gradients = gradient_of(state.params, state.batch_stats, batch, key, 0)
        else:
            # Every k-th image, so that a part is divided among the devices as the whole is.
            parts = jax.tree.map(lambda rows: jnp.swapaxes(rows.reshape(-1, k, *rows.shape[1:]), 0, 1), batch)
            blank = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params), state.batch_stats)
            unroll = jax.default_backend() == "cpu"
            (loss, gradients, batch_stats), _ = jax.lax.scan(of_part, blank, (parts, jnp.arange(k)), unroll=unroll)
            loss, gradients = jax.tree.map(lambda x: x / k, (loss, gradients))
        chain = optimizer.transform(settings, trees.labels(origin, dict(groups)), origin)
        updates, opt_state = chain.update(gradients, state.opt_state, state.params)
        params, average = optax.apply_updates(state.params, updates), state.average
        if average is not None:
            average = trees.interpolated(average, (params, batch_stats), 1 - settings.structure.ema)
        return State(params, batch_stats, opt_state, state.step + 1, average), loss

    def advance(state: State, batches: Batch, held: Batch | None, settings: Settings, origin: Tree) -> tuple:
        if len(batches.index) == 1:
            state, loss = one_step(state, jax.tree.map(lambda x: x[0], batches), held, settings, origin)
            return state, loss[None]
        return jax.lax.scan(lambda s, b: one_step(s, b, held, settings, origin), state, batches)

    return jax.jit(advance, donate_argnums=0)


def _cast(tree: Tree, dtype: Any) -> Tree:
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, np.floating) else x, tree)
