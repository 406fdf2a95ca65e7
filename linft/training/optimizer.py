"""A recipe as an optax chain: the same chain trains weights and function-space coordinates.

`settings` makes of a recipe the one thing that goes into a compiled step, and `transform` makes the chain of it:
numbers, which a vmapped sweep varies, are leaves, and the recipe's structure, which a program is compiled for,
is metadata.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax

from linft.core import trees
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.core.recipe_fields import structure
from linft.core.trees import Groups, Tree


class GroupSettings(NamedTuple):
    """What a recipe sets for one group."""

    multiplier: Any
    """Factor on the learning rate; 0 freezes."""
    decay: Any
    """Strength of decay."""
    pull: Any
    """What decay pulls towards: this multiple of the pretrained weights, 0 (L2) or 1 (L2-SP)."""


@trees.pytree
@dataclass(frozen=True)
class Settings:
    """All that a compiled step needs of a recipe, on given groups; its numbers may carry a leading axis of recipes."""

    structure: Recipe = field(metadata={"static": True})
    """The recipe without its numbers, steps and order, from `recipe_fields.structure`."""
    rates: Any
    """Learning rate of every step, [steps]."""
    momentum: Any
    seed: Any
    """Of augmentation, mixup and dropout; the order of the images is `Recipe.order`."""
    groups: dict[str, GroupSettings]

    @property
    def multipliers(self) -> dict[str, Any]:
        return {name: group.multiplier for name, group in self.groups.items()}

    @property
    def decays(self) -> dict[str, Any]:
        return {name: group.decay for name, group in self.groups.items()}

    @property
    def pulls(self) -> dict[str, Any]:
        return {name: group.pull for name, group in self.groups.items()}

    def on(self, groups: dict[str, GroupSettings]) -> Self:
        """The same settings on other groups."""
        return dataclasses.replace(self, groups=groups)


def groups_for(recipe: Recipe, groups: Groups) -> dict[str, tuple[str, ...]]:
    """The groups that training needs: layer groups, split into kernels and vectors where only kernels decay."""
    return trees.split_vectors(groups) if _splits(recipe) else dict(groups)


def kernel_groups(groups: Groups, *recipes: Recipe) -> dict[str, tuple[str, ...]]:
    """The fewest groups that some recipes need of a kernel, in which each has a block of its own.

    Stages, cut where a recipe tells the layer groups of one apart, and split into kernels and vectors
    where one decays kernels only.

    Example:
      >>> groups = {"stem": ("stem",), **{f"stage1.block{i}": (f"stage1/block{i}",) for i in range(3)}}
      >>> list(kernel_groups(groups, Recipe(frozen_groups=("stem",))))
      ['stem', 'stage1']
      >>> list(kernel_groups(groups, Recipe(), Recipe(frozen_groups=("stem", "stage1.block0"))))
      ['stem', 'stage1.block0', 'stage1.block1+block2']
    """

    def told(group: str) -> tuple[str, tuple]:
        return trees.stage(group), tuple((recipe.multiplier(group), recipe.decay(group)) for recipe in recipes)

    size = Counter(map(trees.stage, groups))
    found: dict[str, tuple[str, ...]] = {}
    for (stage, settings), run in itertools.groupby(groups, told):
        names = list(run)
        whole = len(names) == size[stage] and told(stage)[1] == settings
        found[stage if whole else trees.joined(names)] = tuple(path for name in names for path in groups[name])
    return trees.split_vectors(found) if any(map(_splits, recipes)) else found


def _splits(recipe: Recipe) -> bool:
    return recipe.decays and not recipe.decay_vectors


def settings(recipe: Recipe, groups: tuple[str, ...], n: int) -> Settings:
    """The settings of a recipe for n training images, group by group.

    Raises:
      LinftError: a pattern of the recipe names none of the groups, or they are too few for it.
    """
    build = "build the tangent with groups=optimizer.kernel_groups(model.layer_groups, recipe)"
    recipe.check_groups(tuple(dict.fromkeys(member for g in groups for member in trees.members(g))))
    if _splits(recipe) and not any(g.endswith(trees.VECTORS) for g in groups):
        raise LinftError(f"decay_vectors=False needs groups split into kernels and vectors; {build}")

    def of(group: str) -> GroupSettings:
        found = {(recipe.multiplier(member), recipe.decay(member)) for member in trees.members(group)}
        if len(found) > 1:
            raise LinftError(f"the recipe has several settings for the layer groups of {group}; {build}")
        multiplier, decay = found.pop()
        exempt = group.endswith(trees.VECTORS) and not recipe.decay_vectors
        return GroupSettings(*map(jnp.asarray, (multiplier, *((0.0, 0.0) if exempt else decay))))

    return Settings(
        structure=structure(recipe),
        rates=jnp.asarray(recipe.rates(n)),
        momentum=jnp.asarray(recipe.momentum),
        seed=jnp.asarray(recipe.seed, jnp.uint32),
        groups={group: of(group) for group in groups},
    )


def decay_towards(
    origin: Tree, strengths: dict[str, Any], pulls: dict[str, Any], labels: Tree
) -> optax.GradientTransformation:
    """Add λ_g (w_g − p_g w0_g) to the gradient of every group g: L2 where p_g is 0, L2-SP where it is 1.

    Coupled weight decay, as torch's `weight_decay` and `optax.add_decayed_weights`; L2-SP is Li,
    Grandvalet and Davoine 2018 with α = λ_g on transferred groups and β = λ_g, p_g = 0 on new ones
    (Li and others 2020, section 3.4; Plested and others 2021, section 4.5). For any pytree.

    Example:
      >>> import jax.numpy as jnp
      >>> w0, labels = {"stem": jnp.array(1.0), "head": jnp.array(2.0)}, {"stem": "stem", "head": "head"}
      >>> alpha_beta, pulls = {"stem": 0.5, "head": 0.1}, {"stem": 1.0, "head": 0.0}
      >>> decay = decay_towards(w0, alpha_beta, pulls, labels)
      >>> updates, _ = decay.update({"stem": jnp.zeros(()), "head": jnp.zeros(())}, decay.init(w0), w0)
      >>> float(updates["stem"]), round(float(updates["head"]), 3)
      (0.0, 0.2)
    """

    def add_decay(updates, params):
        pull = _decay(origin, strengths, pulls, labels, params)
        return jax.tree.map(jnp.add, updates, pull)

    return optax.stateless(add_decay)


def _decay(origin: Tree, strengths: dict[str, Any], pulls: dict[str, Any], labels: Tree, params: Tree) -> Tree:
    """λ_g (w_g − p_g w0_g)."""

    def of_leaf(label, value, at_origin):
        strength, pull = (jnp.asarray(number[label], value.dtype) for number in (strengths, pulls))
        return strength * (value - pull * at_origin)

    return trees.map_by_label(of_leaf, labels, params, origin)


class Velocity(NamedTuple):
    """State of `decoupled_momentum`."""

    velocity: Tree
    step: Any


def decoupled_momentum(
    settings: Settings, labels: Tree, origin: Tree
) -> optax.GradientTransformationExtraArgs | optax.GradientTransformation:
    """Momentum with the rate inside the velocity and decay outside it (Li and others 2020, eq. 1 and 2).

    As `Recipe` states it, with group multipliers μ_g on every rate. Under Nesterov momentum the
    parameters are the point φ_t = w_t − m v_t where the gradient is taken, as torch's are, so

        φ_{t+1} = φ_t + m v_t − (1 + m) v_{t+1} − η_t μ_g λ_g (φ_t + m v_t − p_g w0_g)

    and w_t = φ_t + m v_t.
    """
    m, ahead = settings.momentum, settings.momentum if settings.structure.nesterov else 0.0

    def init(params: Tree) -> Velocity:
        return Velocity(jax.tree.map(jnp.zeros_like, params), jnp.zeros((), jnp.int32))

    def update(gradients, state, params):
        rate = _rate(settings, state.step)

        def scaled(label, x):
            return jnp.asarray(rate * settings.multipliers[label], x.dtype) * x

        def combine(g, v):
            return jnp.asarray(m, v.dtype) * v + g

        before = jax.tree.map(lambda v: jnp.asarray(ahead, v.dtype) * v, state.velocity)
        velocity = jax.tree.map(combine, trees.map_by_label(scaled, labels, gradients), state.velocity)
        weights = jax.tree.map(jnp.add, params, before)
        decay = trees.map_by_label(scaled, labels, _decay(origin, settings.decays, settings.pulls, labels, weights))
        updates = jax.tree.map(lambda b, v, d: b - (1 + jnp.asarray(ahead, v.dtype)) * v - d, before, velocity, decay)
        return updates, Velocity(velocity, state.step + 1)

    return optax.GradientTransformation(init, update)  # pyright: ignore


def _rate(settings: Settings, step: Any) -> jax.Array:
    return settings.rates[jnp.minimum(step, settings.rates.shape[0] - 1)]


def scale_by_group(multipliers: dict[str, Any], labels: Tree) -> optax.GradientTransformation:
    """Multiply the update of every group g by μ_g; 0 freezes it."""

    def scale(updates, params):
        del params
        return trees.map_by_label(lambda label, u: u * jnp.asarray(multipliers[label], u.dtype), labels, updates)

    return optax.stateless(scale)


def clip_by_trained_norm(
    max_norm: float, multipliers: dict[str, Any], labels: Tree
) -> optax.GradientTransformationExtraArgs:
    """Clip by the norm of what trains, as where only that is handed to the optimizer: μ_g = 0 counts for nothing.

    Updates that are coordinates of weights have another norm than in weights: `update` takes as `squares` the
    squared norms there, by label.

    Example:
      >>> import jax.numpy as jnp
      >>> clip = clip_by_trained_norm(1.0, {"body": 0.0, "head": 1.0}, {"body": "body", "head": "head"})
      >>> gradients = {"body": jnp.array(100.0), "head": jnp.array(0.5)}
      >>> float(clip.update(gradients, clip.init(gradients))[0]["head"])
      0.5
    """

    def of_trained(label, value):
        return jnp.where(multipliers[label] > 0, value, jnp.zeros_like(value))

    def clip(updates, state, params=None, *, squares: Mapping[str, jax.Array] | None = None, **others):
        del params, others
        if squares is None:
            trained = [jnp.sum(jnp.square(u)) for u in jax.tree.leaves(trees.map_by_label(of_trained, labels, updates))]
        else:
            trained = [of_trained(label, square) for label, square in squares.items()]
        norm = jnp.sqrt(jnp.maximum(sum(trained), 0))  # rounding may take the square of a small one below zero
        scale = jnp.where(norm < max_norm, 1, max_norm / norm)
        return jax.tree.map(lambda u: scale.astype(u.dtype) * u, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), clip)


def transform(settings: Settings, labels: Tree, origin: Tree) -> optax.GradientTransformation:
    """The optax chain of a recipe: clip, decay, momentum (or Adam), group multipliers, learning rate.

    AdamW decays after Adam, and Li and others 2020 have momentum, decay and rate in one.

    Args:
      settings: of the recipe, from `optim.settings`.
      labels: group name of every leaf, or of every subtree.
      origin: the pretrained weights, shaped like what is trained.
    """
    settings = jax.tree.map(lambda number: jnp.asarray(number, trees.precision(origin)), settings)
    recipe, multipliers = settings.structure, settings.multipliers
    clip = [] if recipe.clip_norm is None else [clip_by_trained_norm(recipe.clip_norm, multipliers, labels)]
    if recipe.optimizer == "sgd" and recipe.convention == "decoupled":
        return optax.chain(*clip, decoupled_momentum(settings, labels, origin))
    decay = decay_towards(origin, settings.decays, settings.pulls, labels)
    if recipe.optimizer == "adam":
        adam = optax.scale_by_adam(b1=settings.momentum, b2=0.999)
        rules = (decay, adam) if recipe.convention == "coupled" else (adam, decay)
    else:
        rules = (decay, optax.trace(decay=settings.momentum, nesterov=recipe.nesterov))
    return optax.chain(
        *clip,
        *rules,
        scale_by_group(multipliers, labels),
        optax.scale_by_learning_rate(lambda step: _rate(settings, step)),
    )
