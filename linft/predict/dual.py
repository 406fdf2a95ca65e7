"""Exact prediction of minibatch SGD on the linearized network, in function space, by replaying its batches.

The weights of every group stay w_g = γ_g w0_g + J_gᵀ α_g, so the optax chain that trains weights
runs on the coordinates (α_g, γ_g) instead: the gradient of the loss with respect to the batch's
logits is scattered into α, and decay pulls (α, γ) towards (0, 0) or (0, 1).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from linft.core import recipe_fields
from linft.core.base import BatchNorm, Model, Tangent, Trajectory
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.core.recipe_fields import By
from linft.core.task import Task
from linft.predict import replay
from linft.predict.operator import apply, apply_rows, operator
from linft.predict.replay import Network
from linft.predict.tangent import tangent as tangent_of
from linft.training import optimizer
from linft.training.optimizer import GroupSettings, Settings


class Coordinates(NamedTuple):
    """Where the weights of a bundle of groups are: w = γ w0 + Jᵀ α."""

    alpha: Float[Array, "n c"]
    gamma: Float[Array, ""]


Bundles = Mapping[str, Mapping[str, float]]
"""Groups that move as one: bundle -> {group: its weight μ_g, α_g = μ_g α}."""


BY: dict[BatchNorm, By] = {"frozen": "frozen kernel", "train": "training kernel"}


def why_not(recipe: Recipe, batch_norm: BatchNorm = "frozen") -> str | None:
    """Why no kernel predicts this recipe, with batch norm frozen or in training mode; None where one does.

    Example:
      >>> why_not(Recipe(steps=1, batch_norm="train"))
      "batch norm is in training mode, and the kernel's is frozen"
      >>> why_not(Recipe(steps=1, batch_norm="train"), "train") is None
      True
    """
    return recipe_fields.why_not(recipe, BY[batch_norm])


def nearest(recipe: Recipe, batch_norm: BatchNorm = "frozen") -> tuple[Recipe, str]:
    """The nearest recipe that a kernel predicts, and what was dropped ("" if nothing).

    Args:
      batch_norm: of the kernel.

    Example:
      >>> nearest(Recipe(steps=1, batch_norm="train", optimizer="adam"), "train")[1]
      'dropped: optimizer=adam'
    """
    return recipe_fields.nearest(recipe, BY[batch_norm])


def dual(model: Model | Tangent, task: Task | None = None, *, record_every: int | None = None, **kernel: Any) -> "Dual":
    """Predict fine-tuning from the tangent kernel, replaying the real run's minibatches: a Run.

        f = f0 + Σ_g [Θ_g α_g + (γ_g − 1) J_g w0_g],  ‖w_g − w0_g‖² = αᵀΘ_gα + 2(γ−1)w0ᵀJ_gᵀα + (γ−1)²‖w0_g‖²

    Exact for the linearized network under momentum, schedules, minibatches, decay and group rates,
    for either loss; one row-block of the kernel a step. `many` runs recipes of one structure and
    order of images in one vmapped program, where a step is one matrix product for all of them.
    With batch_norm="train" it predicts recipes in training mode: the network is linearized with the training
    images' statistics as functions of the weights, and losses and accuracies, train and test, are those with
    the statistics re-estimated at every step (a real run's `Trajectory.reestimated`).

    Args:
      model, task: from which the Tangent is computed; or a Tangent alone.
      record_every: measure every so many steps; about a dozen times by default.
      **kernel: groups, outputs, batch_norm, engine, batch_size, draws, progress of `predict.tangent`.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(10, 10)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=4)
      >>> run = dual(model, task)
      >>> run(linft.Recipe(learning_rate=0.01, batch_size=5, steps=4)).train_loss.shape
      (5,)
    """
    return Dual(as_tangent(model, task, **kernel), record_every)


def as_frozen_tangent(model: Model | Tangent, task: Task | None, **kernel: Any) -> Tangent:
    """As `as_tangent`, of frozen batch norm only."""
    found = as_tangent(model, task, **kernel)
    if found.batch_norm != "frozen":
        raise LinftError("this Tangent has batch norm in training mode, which only predict.dual takes")
    return found


def as_tangent(model: Model | Tangent, task: Task | None, **kernel: Any) -> Tangent:
    """The Tangent given, or that of a model and a task."""
    if isinstance(model, Tangent):
        if task is not None or kernel:
            raise LinftError("a Tangent carries its task and kernel already; pass it alone")
        return model
    if task is None:
        raise LinftError("pass a model and a task, or a Tangent alone")
    return tangent_of(model, task, **kernel)


@dataclass(frozen=True)
class Dual:
    """The Run that `dual` gives."""

    tangent: Tangent
    record_every: int | None = None

    def __call__(self, recipe: Recipe) -> Trajectory:
        return self.many([recipe])[0]

    def many(self, recipes: Iterable[Recipe]) -> list[Trajectory]:
        """One compiled program for all recipes of one structure and one sequence of minibatches."""
        return replay.many(predictable(recipes, self.tangent.batch_norm), len(self.tangent.labels_train), self._family)

    def _family(self, recipes: list[Recipe]) -> list[Trajectory]:
        t, n = self.tangent, len(self.tangent.labels_train)
        bundles, settings = bundle([optimizer.settings(recipe, t.groups, n) for recipe in recipes])
        return replay.replay(_network, items(bundles), t, settings, recipes, n, self.record_every)


def predictable(recipes: Iterable[Recipe], batch_norm: BatchNorm) -> list[Recipe]:
    """The recipes, of which none may be one that a kernel does not predict whose batch norm is in this mode."""
    recipes = list(recipes)
    for recipe in recipes:
        if reason := why_not(recipe, batch_norm):
            raise LinftError(f"no kernel predicts this recipe: {reason}; {_instead(recipe, batch_norm)}")
    return recipes


def _instead(recipe: Recipe, batch_norm: BatchNorm) -> str:
    if recipe.batch_norm != batch_norm and recipe.batch_norm != "reestimated":
        return f'pass batch_norm="{recipe.batch_norm}" to get its kernel'
    return f'use predict.nearest(recipe, "{batch_norm}")'


def bundle(settings: list[Settings]) -> tuple[Bundles, Settings]:
    """Groups that can share coordinates, and the settings of the bundles, stacked over recipes.

    Without decay, and with the same multipliers in every recipe, all groups are one bundle with the
    weighted kernel Σ μ_g Θ_g. Otherwise groups of equal multiplier and decay in every recipe are one.
    """
    keys = {g: tuple(tuple(map(float, s.groups[g])) for s in settings) for g in settings[0].groups}
    undecayed = all(decay == 0 for key in keys.values() for _, decay, _ in key)
    if undecayed and all(len(set(key)) == 1 for key in keys.values()):
        bundles = {"all": {g: key[0][0] for g, key in keys.items()}}
        plain = {"all": GroupSettings(jnp.ones(()), jnp.zeros(()), jnp.zeros(()))}
        bundled = [s.on(plain) for s in settings]
    else:
        firsts = {key: g for g, key in reversed(keys.items())}
        bundles = {first: {g: 1.0 for g in keys if keys[g] == key} for key, first in firsts.items()}
        bundled = [s.on({b: s.groups[b] for b in bundles}) for s in settings]
    return bundles, stacked(bundled)


def stacked(settings: list[Settings]) -> Settings:
    """The settings of some recipes as one, with a leading axis of recipes."""
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *settings)


BundleItems = tuple[tuple[str, tuple[tuple[str, float], ...]], ...]


def items(bundles: Bundles) -> BundleItems:
    """Bundles as something that can be hashed."""
    return tuple((b, tuple(weights.items())) for b, weights in bundles.items())


class Span(NamedTuple):
    """The weights that coordinates of bundles reach, as outputs see them: Θ α + (γ − 1) J w0, summed over bundles."""

    origin: dict[str, Coordinates]
    on_train: Callable[[dict[str, Coordinates]], Float[Array, "n c"]]
    on_test: Callable[[dict[str, Coordinates]], Float[Array, "m c"]]
    on_batch: Callable[[dict[str, Coordinates], Int[Array, "b"]], Float[Array, "b c"]]
    gradient: Callable[[Int[Array, "b"], Float[Array, "b c"]], dict[str, Coordinates]]
    """From ∂L/∂outputs of a batch to that of the coordinates."""
    lengths: Callable[[dict[str, Coordinates]], dict[str, dict[str, Array]]]


def span(names: BundleItems, tangent: Tangent) -> Span:
    """What the outputs of a tangent are at coordinates of bundles."""
    bundles = {b: dict(weights) for b, weights in names}
    shape, dtype = tangent.logits_train.shape, tangent.logits_train.dtype
    parts = {
        b: (
            (operator(tangent.kernel_train, tangent, weights), _summed(tangent.weights_train, weights)),
            (operator(tangent.kernel_test, tangent, weights), _summed(tangent.weights_test, weights)),
        )
        for b, weights in bundles.items()
    }

    def on(part: int) -> Callable[[dict[str, Coordinates]], Array]:
        def moves(at: dict[str, Coordinates]) -> Array:
            theta = {b: parts[b][part] for b in at}
            return sum(apply(theta[b][0], x.alpha) + (x.gamma - 1) * theta[b][1] for b, x in at.items())  # pyright: ignore

        return moves

    def on_batch(at: dict[str, Coordinates], batch: Array) -> Array:
        theta = {b: parts[b][0] for b in at}
        return sum(  # pyright: ignore
            apply_rows(theta[b][0], batch, x.alpha) + (x.gamma - 1) * theta[b][1][batch] for b, x in at.items()
        )

    def gradient(batch: Array, residual: Array) -> dict[str, Coordinates]:
        alpha = jnp.zeros(shape, dtype).at[batch].add(residual)
        return {b: Coordinates(alpha, jnp.zeros((), dtype)) for b in bundles}

    def lengths_at(at: dict[str, Coordinates]) -> dict[str, dict[str, Array]]:
        return lengths(tangent, {g: (weight, at[b]) for b, w in bundles.items() for g, weight in w.items()})

    origin = {b: Coordinates(jnp.zeros(shape, dtype), jnp.ones((), dtype)) for b in bundles}
    return Span(origin, on(0), on(1), on_batch, gradient, lengths_at)


def _network(names: BundleItems, tangent: Tangent) -> Network:
    reach = span(names, tangent)

    def of_batch(at: dict[str, Coordinates], batch: Array) -> tuple[Array, Callable]:
        return tangent.logits_train[batch] + reach.on_batch(at, batch), partial(reach.gradient, batch)

    def logits(at: dict[str, Coordinates]) -> tuple[Array, Array]:
        return tangent.logits_train + reach.on_train(at), tangent.logits_test + reach.on_test(at)

    return Network(
        origin=reach.origin,
        here=reach.origin,
        groups={b: b for b in reach.origin},
        of_batch=of_batch,
        logits=logits,
        lengths=reach.lengths,
        labels_train=tangent.labels_train,
        labels_test=tangent.labels_test,
    )


def _summed(by_group: Mapping[str, Array], weights: Mapping[str, float]) -> Array:
    """Σ J_g w0_g over a bundle; γ stays 1 in a bundle whose weights are not 1."""
    return sum(by_group[g] for g in weights)  # pyright: ignore


def lengths(tangent: Tangent, at: Mapping[str, tuple[float, Coordinates]]) -> dict[str, dict[str, Array]]:
    """‖w_g − w0_g‖ and ‖w_g‖ of every group at α_g = μ_g α, γ_g."""
    distance, norm = {}, {}
    for group, (weight, where) in at.items():
        alpha, gamma = weight * where.alpha, where.gamma
        quadratic = jnp.vdot(alpha, apply(operator(tangent.kernel_train, tangent, {group: 1.0}), alpha))
        mixed = 2 * jnp.vdot(tangent.weights_train[group], alpha)
        for values, scale in ((distance, gamma - 1), (norm, gamma)):
            squared = quadratic + scale * mixed + scale**2 * tangent.squared_norms[group]
            values[group] = jnp.sqrt(jnp.maximum(squared, 0))  # rounding may take a length of zero below it
    return {"distance": distance, "norm": norm}
