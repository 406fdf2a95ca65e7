"""A recipe as an optax chain: the same chain trains weights and function-space coordinates.

What a vmapped sweep varies is in `Settings`, a pytree of numbers; what it does not (the rule, the
labels) is in the arguments of `transform`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from linft import trees
from linft.errors import LinftError
from linft.recipe import Recipe
from linft.trees import Groups, Tree


class Settings(NamedTuple):
    """The numbers of a recipe on given groups; leaves may carry a leading axis of recipes."""

    rates: Any
    """Learning rate of every step, [steps]."""
    momentum: Any
    multipliers: dict[str, Any]
    """Factor on the learning rate, for each group."""
    decays: dict[str, Any]
    """Decay strength, for each group."""


def groups_for(recipe: Recipe, groups: Groups) -> dict[str, tuple[str, ...]]:
    """The groups that the recipe needs: layer groups, split into kernels and vectors where only kernels decay."""
    split = recipe.weight_decay > 0 and not recipe.decay_vectors
    return trees.split_vectors(groups) if split else dict(groups)


def settings(recipe: Recipe, groups: tuple[str, ...], n: int) -> Settings:
    """The numbers of a recipe for n training images, group by group."""
    layer_groups = tuple(dict.fromkeys(trees.layer_group(g) for g in groups))
    recipe.check_groups(layer_groups)
    if recipe.weight_decay > 0 and not recipe.decay_vectors and not any(g.endswith(trees.VECTORS) for g in groups):
        raise LinftError(
            "decay_vectors=False needs groups split into kernels and vectors; "
            "build the tangent with groups=trees.split_vectors(model.layer_groups)"
        )

    def decay(group: str) -> float:
        exempt = group.endswith(trees.VECTORS) and not recipe.decay_vectors
        return 0.0 if exempt else recipe.decay(trees.layer_group(group))

    return Settings(
        rates=jnp.asarray(recipe.rates(n)),
        momentum=jnp.asarray(recipe.momentum),
        multipliers={g: jnp.asarray(recipe.multiplier(trees.layer_group(g))) for g in groups},
        decays={g: jnp.asarray(decay(g)) for g in groups},
    )


def decay_towards(reference: Tree, strengths: dict[str, Any], labels: Tree) -> optax.GradientTransformation:
    """Add λ_g (w_g − w̄_g) to the gradient of every group g: L2 for w̄ = 0, L2-SP for the pretrained weights.

    Coupled weight decay, as torch's `weight_decay` and `optax.add_decayed_weights`; L2-SP is Li,
    Grandvalet and Davoine 2018, used in Li and others 2020 (section 3.5).
    """

    def add_decay(updates, params):
        def add(label, update, value, ref):
            return update + jnp.asarray(strengths[label], update.dtype) * (value - ref)

        return trees.map_by_label(add, labels, updates, params, reference)

    return optax.stateless(add_decay)


def scale_by_group(multipliers: dict[str, Any], labels: Tree) -> optax.GradientTransformation:
    """Multiply the update of every group g by μ_g; 0 freezes it."""

    def scale(updates, params):
        del params
        return trees.map_by_label(lambda label, u: u * jnp.asarray(multipliers[label], u.dtype), labels, updates)

    return optax.stateless(scale)


def transform(recipe: Recipe, numbers: Settings, labels: Tree, reference: Tree) -> optax.GradientTransformation:
    """The optax chain of a recipe: clip, decay, momentum (or Adam), group multipliers, learning rate.

    Args:
      recipe: its optimizer, Nesterov and clipping choices; all numbers come from `numbers`.
      numbers: learning rates, momentum, multipliers and decays, from `settings`.
      labels: group name of every leaf, or of every subtree.
      reference: what decay pulls towards, shaped like what is trained.
    """

    def rate(count: Any) -> jax.Array:
        return numbers.rates[jnp.minimum(count, numbers.rates.shape[0] - 1)]

    rule = (
        optax.scale_by_adam(b1=0.9, b2=0.999)
        if recipe.optimizer == "adam"
        else optax.trace(decay=numbers.momentum, nesterov=recipe.nesterov)
    )
    return optax.chain(
        *([] if recipe.clip_norm is None else [optax.clip_by_global_norm(recipe.clip_norm)]),
        decay_towards(reference, numbers.decays, labels),
        rule,
        scale_by_group(numbers.multipliers, labels),
        optax.scale_by_learning_rate(rate),
    )


def structure(recipe: Recipe) -> Recipe:
    """The recipe without its numbers, steps and order: what a function compiled for it depends on.

    Recipes of one structure (and as many steps) share one compiled program.
    """
    return Recipe(
        optimizer=recipe.optimizer,
        clip_norm=recipe.clip_norm,
        nesterov=recipe.nesterov,
        decay_towards=recipe.decay_towards,
        loss=recipe.loss,
        batch_norm=recipe.batch_norm,
        augmentation=recipe.augmentation,
    )
