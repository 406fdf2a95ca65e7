"""The weights that coordinates reach, as outputs see them: what every replay of a tangent kernel shares.

The weights of a bundle of groups, which have one setting in the recipe, are w = γ₁ u₁ + … + Jᵀ α, where u are
some directions, the pretrained weights w0 one of them. Its outputs move by Θ α + Σ (γ − here) J u.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from linft.core.base import Tangent
from linft.core.trees import Tree
from linft.predict.operator import apply, apply_rows, operator, quadratic
from linft.training.optimizer import GroupSettings, Settings


class Coordinates(NamedTuple):
    """Where the weights of a bundle of groups are: w = Σ_i γ_i u_i + Jᵀ α."""

    alpha: Float[Array, "n c"]
    gamma: Float[Array, "i"]


At = dict[str, Coordinates]
"""The coordinates of every bundle."""
Bundles = Mapping[str, Mapping[str, float]]
"""Groups that move as one: bundle -> {group: its weight μ_g, by which all its moves are multiplied}."""
BundleItems = tuple[tuple[str, tuple[tuple[str, float], ...]], ...]
Lengths = dict[str, dict[str, Array]]
"""The distance moved and the norm of every group."""


class Directions(NamedTuple):
    """A tangent, and directions u in which the weights may lie beside the span of its Jacobians."""

    tangent: Tangent
    pushed_train: dict[str, Float[Array, "i n c"]]
    """J_g u_g on the training images."""
    pushed_test: dict[str, Float[Array, "i m c"]]
    gram: dict[str, Float[Array, "i i"]]
    """⟨u_g, u'_g⟩."""


def from_pretrained(tangent: Tangent) -> Directions:
    """The pretrained weights alone."""
    return Directions(
        tangent,
        {g: along[None] for g, along in tangent.weights_train.items()},
        {g: along[None] for g, along in tangent.weights_test.items()},
        {g: jnp.reshape(square, (1, 1)) for g, square in tangent.squared_norms.items()},
    )


class OnBatch(NamedTuple):
    """Outputs of some images, and what a gradient ∂L/∂outputs is to the weights:"""

    outputs: Float[Array, "b c"]
    gradient: Callable[[Float[Array, "b c"]], Any]
    """its coordinates,"""
    squares: Callable[[Float[Array, "b c"]], dict[str, Array]]
    """and its squared norm in the weights, by bundle (or what else has settings of its own): without the factors of
    groups on the learning rate, and without groups where they are 0."""


class Span(NamedTuple):
    """Outputs as functions of coordinates, by name, apart from what they are where the weights begin."""

    origin: Tree
    """Of the pretrained weights."""
    here: Tree
    """Of the weights at which the coordinates begin."""
    on_train: Callable[[Tree], Float[Array, "n c"]]
    on_test: Callable[[Tree], Float[Array, "m c"]]
    of_batch: Callable[[Tree, Int[Array, "b"]], OnBatch]
    """The outputs here are how far they moved."""
    lengths: Callable[[Tree], Lengths]


def bundle(settings: list[Settings]) -> tuple[Bundles, Settings]:
    """Groups that can share coordinates, and the settings of the bundles, stacked over recipes.

    Without decay, and with the same multipliers in every recipe, all groups are one bundle with the
    weighted kernel Σ μ_g Θ_g. Otherwise groups of equal multiplier and decay in every recipe are one.
    """
    keys = _keys(settings)
    undecayed = all(decay == 0 for key in keys.values() for _, decay, _ in key)
    if undecayed and all(len(set(key)) == 1 for key in keys.values()):
        bundles = {"all": {g: key[0][0] for g, key in keys.items()}}
        plain = {"all": GroupSettings(jnp.ones(()), jnp.zeros(()), jnp.zeros(()))}
        return bundles, stacked([s.on(plain) for s in settings])
    return bundle_equal(settings)


def bundle_equal(settings: list[Settings]) -> tuple[Bundles, Settings]:
    """As `bundle`, of groups with equal multiplier and decay in every recipe only: all weights are 1."""
    keys = _keys(settings)
    firsts = {key: g for g, key in reversed(keys.items())}
    bundles = {first: {g: 1.0 for g in keys if keys[g] == key} for key, first in firsts.items()}
    return bundles, stacked([s.on({b: s.groups[b] for b in bundles}) for s in settings])


def _keys(settings: list[Settings]) -> dict[str, tuple]:
    """What all recipes set for each group."""
    return {g: tuple(tuple(map(float, s.groups[g])) for s in settings) for g in settings[0].groups}


def stacked(settings: list[Settings]) -> Settings:
    """The settings of some recipes as one, with a leading axis of recipes."""
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *settings)


def items(bundles: Bundles) -> BundleItems:
    """Bundles as something that can be hashed."""
    return tuple((b, tuple(weights.items())) for b, weights in bundles.items())


def span(
    names: BundleItems, reach: Directions, origin: tuple[int, ...] = (1,), here: tuple[int, ...] | None = None
) -> Span:
    """The outputs of a tangent at coordinates of bundles.

    Args:
      origin: γ of the pretrained weights.
      here: γ of the weights at which the tangent is and the coordinates begin; the pretrained ones by default.
    """
    here = origin if here is None else here
    t, bundles = reach.tangent, {b: dict(weights) for b, weights in names}
    shape, dtype = t.logits_train.shape, t.logits_train.dtype
    start = jnp.array(here, dtype)
    train, test = (
        {b: (operator(kernel, t, weights), weighted(pushed, weights)) for b, weights in bundles.items()}
        for kernel, pushed in ((t.kernel_train, reach.pushed_train), (t.kernel_test, reach.pushed_test))
    )

    def everywhere(gamma: tuple[int, ...]) -> At:
        return {b: Coordinates(jnp.zeros(shape, dtype), jnp.array(gamma, dtype)) for b in bundles}

    def on(parts: dict) -> Callable[[At], Array]:
        def moved(at: At) -> Array:
            return sum(apply(parts[b][0], x.alpha) + along(parts[b][1], x.gamma - start) for b, x in at.items())  # pyright: ignore

        return moved

    trained = {b: [g for g, weight in weights.items() if weight > 0] for b, weights in bundles.items()}

    def of_batch(at: At, batch: Array) -> OnBatch:
        moved = sum(
            apply_rows(train[b][0], batch, x.alpha) + along(train[b][1][:, batch], x.gamma - start)
            for b, x in at.items()
        )

        def gradient(residual: Array) -> At:
            alpha = jnp.zeros(shape, dtype).at[batch].add(residual)
            return {b: Coordinates(alpha, jnp.zeros_like(start)) for b in bundles}

        def squares(residual: Array) -> dict[str, Array]:
            def of(group: str) -> Array:
                return quadratic(operator(t.kernel_train, t, {group: 1.0}), batch, residual)

            return {b: sum(map(of, groups), jnp.zeros((), dtype)) for b, groups in trained.items()}

        return OnBatch(moved, gradient, squares)  # pyright: ignore

    return Span(
        everywhere(origin),
        everywhere(here),
        on(train),
        on(test),
        of_batch,
        partial(lengths, names, reach, origin, here),
    )


def lengths(names: BundleItems, reach: Directions, origin: tuple[int, ...], here: tuple[int, ...], at: At) -> Lengths:
    """‖w_g − w0_g‖ and ‖w_g‖ of every group, with origin and here as in `span`."""
    found: Lengths = {"distance": {}, "norm": {}}
    start = jnp.array(here, at[names[0][0]].gamma.dtype)
    for b, weights in names:
        alpha, gamma = at[b]
        for g, weight in weights:
            quadratic = jnp.vdot(alpha, apply(operator(reach.tangent.kernel_train, reach.tangent, {g: 1.0}), alpha))
            mixed = jnp.tensordot(reach.pushed_train[g], alpha, 2)
            for kind, since in (("distance", origin), ("norm", (0,) * len(origin))):
                fixed = weight * (gamma - start) + start - jnp.array(since, start.dtype)
                squared = weight**2 * quadratic + 2 * weight * (mixed @ fixed) + fixed @ reach.gram[g] @ fixed
                found[kind][g] = jnp.sqrt(jnp.maximum(squared, 0))  # rounding may take a length of zero below it
    return found


def lifted(below: Span, directions: Float[Array, "d r"]) -> Span:
    """The same of outputs that move along some directions of more."""

    def of_batch(at: Tree, batch: Array) -> OnBatch:
        moved, gradient, squares = below.of_batch(at, batch)
        return OnBatch(moved @ directions.T, lambda r: gradient(r @ directions), lambda r: squares(r @ directions))

    return below._replace(
        on_train=lambda at: below.on_train(at) @ directions.T,
        on_test=lambda at: below.on_test(at) @ directions.T,
        of_batch=of_batch,
    )


def weighted(by_group: Mapping[str, Array], weights: Mapping[str, float]) -> Array:
    """Σ_g μ_g x_g over the groups of a bundle."""
    return sum(weight * by_group[g] for g, weight in weights.items())  # pyright: ignore


def along(pushed: Float[Array, "i b c"], gamma: Float[Array, "i"]) -> Float[Array, "b c"]:
    """Σ_i γ_i J u_i."""
    return jnp.tensordot(gamma, pushed, 1)
