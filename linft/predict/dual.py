"""Exact prediction of minibatch SGD on the linearized network, in function space, by replaying its batches.

The weights of every group stay w_g = γ_g w0_g + J_gᵀ α_g, so the optax chain that trains weights
runs on the coordinates (α_g, γ_g) instead: the gradient of the loss with respect to the batch's
logits is scattered into α, and decay pulls (α, γ) towards (0, 0) or (0, 1).
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from linft import losses, optim
from linft.base import Model, Tangent, Trajectory, recorded_steps
from linft.errors import LinftError
from linft.optim import Settings
from linft.predict.operator import Operator, apply, apply_rows, operator
from linft.predict.tangent import tangent as tangent_of
from linft.recipe import Recipe
from linft.task import Task


class Coordinates(NamedTuple):
    """Where the weights of a bundle of groups are: w = γ w0 + Jᵀ α."""

    alpha: Float[Array, "n c"]
    gamma: Float[Array, ""]


Bundles = Mapping[str, Mapping[str, float]]
"""Groups that move as one: bundle -> {group: its weight μ_g, α_g = μ_g α}."""


def why_not(recipe: Recipe) -> str | None:
    """Why no kernel predicts this recipe; None where one does.

    Example:
      >>> why_not(Recipe(steps=1, batch_norm="train"))
      'batch norm in training mode changes the network as it trains'
    """
    reasons = {
        "batch norm in training mode changes the network as it trains": recipe.batch_norm == "train",
        "augmented images are not the images of the kernel": recipe.augmentation != "none",
        "re-estimated batch norm is not the kernel's": recipe.batch_norm == "reestimated",
        "mixed images are not the images of the kernel": recipe.mixup > 0,
        "DELTA's penalty is not linear in the features": recipe.delta > 0,
        "clipping is not linear in the gradient": recipe.clip_norm is not None,
        "Adam is not linear in the gradient": recipe.optimizer == "adam",
    }
    return "; ".join(reason for reason, holds in reasons.items() if holds) or None


def nearest(recipe: Recipe) -> tuple[Recipe, str]:
    """The nearest recipe that a kernel predicts, and what was dropped ("" if nothing)."""
    changes = {
        "batch_norm": "frozen",
        "augmentation": "none",
        "mixup": 0.0,
        "delta": 0.0,
        "clip_norm": None,
        "optimizer": "sgd",
    }
    dropped = {name: getattr(recipe, name) for name, value in changes.items() if getattr(recipe, name) != value}
    note = "dropped: " + ", ".join(f"{name}={value}" for name, value in dropped.items()) if dropped else ""
    return recipe.replace(**changes), note


def dual(model: Model | Tangent, task: Task | None = None, *, record_every: int | None = None, **kernel: Any) -> "Dual":
    """Predict fine-tuning from the tangent kernel, replaying the real run's minibatches: a Run.

        f = f0 + Σ_g [Θ_g α_g + (γ_g − 1) J_g w0_g],  ‖w_g − w0_g‖² = αᵀΘ_gα + 2(γ−1)w0ᵀJ_gᵀα + (γ−1)²‖w0_g‖²

    Exact for the linearized network under momentum, schedules, minibatches, decay and group rates,
    for either loss; one row-block of the kernel a step. `many` runs recipes of one structure in one
    vmapped program.

    Args:
      model, task: from which the Tangent is computed; or a Tangent alone.
      record_every: measure every so many steps; about a dozen times by default.
      **kernel: groups, outputs, engine, batch_size, draws, progress of `predict.tangent`.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(10, 10)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=4)
      >>> run = dual(model, task)
      >>> run(linft.Recipe(learning_rate=0.01, batch_size=5, steps=4)).train_loss.shape
      (5,)
    """
    return Dual(as_tangent(model, task, **kernel), record_every)


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
        """One compiled program for all recipes of one structure, number of steps and batch size."""
        recipes = list(recipes)
        n = len(self.tangent.labels_train)
        families: dict[Any, list[int]] = {}
        for i, recipe in enumerate(recipes):
            if reason := why_not(recipe):
                raise LinftError(f"no kernel predicts this recipe: {reason}; use predict.nearest(recipe)")
            key = (optim.structure(recipe), recipe.num_steps(n), recipe.batch_size_for(n))
            families.setdefault(key, []).append(i)
        results: dict[int, Trajectory] = {}
        for (structure, steps, _), members in families.items():
            family = self._family(structure, steps, [recipes[i] for i in members])
            results.update(zip(members, family, strict=True))
        return [results[i] for i in range(len(recipes))]

    def _family(self, structure: Recipe, steps: int, recipes: list[Recipe]) -> list[Trajectory]:
        begin = time.perf_counter()
        t, n = self.tangent, len(self.tangent.labels_train)
        bundles, numbers = bundle([optim.settings(recipe, t.groups, n) for recipe in recipes])
        batches = np.stack([recipe.batches(n) for recipe in recipes])
        same_order = bool((batches == batches[:1]).all())
        at = recorded_steps(steps, self.record_every)
        recorded = np.isin(np.arange(steps), at)
        operators = {
            b: (operator(t.kernel_train, t, weights), operator(t.kernel_test, t, weights))
            for b, weights in bundles.items()
        }
        with jax.default_matmul_precision("highest"):
            names = tuple((b, tuple(weights.items())) for b, weights in bundles.items())
            replay = _replay_lanes(structure, names, same_order)
            values = replay(t, operators, numbers, batches[0] if same_order else batches, recorded)
        values = jax.device_get(values)
        seconds = (time.perf_counter() - begin) / len(recipes)
        return [
            trajectory(at, jax.tree.map(lambda v, lane=lane: v[lane][at], values), seconds)
            for lane in range(len(recipes))
        ]


def bundle(settings: list[Settings]) -> tuple[Bundles, Settings]:
    """Groups that can share coordinates, and the settings of the bundles, stacked over recipes.

    Without decay, and with the same multipliers in every recipe, all groups are one bundle with the
    weighted kernel Σ μ_g Θ_g. Otherwise groups of equal multiplier and decay in every recipe are one.
    """
    groups = tuple(settings[0].multipliers)
    keys = {
        g: tuple((float(s.multipliers[g]), float(s.decays[g]), float(s.pulls[g])) for s in settings) for g in groups
    }
    undecayed = all(decay == 0 for key in keys.values() for _, decay, _ in key)
    if undecayed and all(len(set(key)) == 1 for key in keys.values()):
        bundles = {"all": {g: keys[g][0][0] for g in groups}}
        one, none = {"all": jnp.ones(())}, {"all": jnp.zeros(())}
        stacked = [s._replace(multipliers=one, decays=none, pulls=none) for s in settings]
    else:
        firsts = {key: g for g, key in reversed(keys.items())}
        bundles = {first: {g: 1.0 for g in groups if keys[g] == key} for key, first in firsts.items()}
        stacked = [
            s._replace(
                **{name: {b: getattr(s, name)[b] for b in bundles} for name in ("multipliers", "decays", "pulls")}
            )
            for s in settings
        ]
    return bundles, jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *stacked)


@lru_cache(maxsize=32)
def _replay_lanes(
    structure: Recipe, bundles: tuple[tuple[str, tuple[tuple[str, float], ...]], ...], same_order: bool
) -> Callable:
    """The replay, vmapped over recipes and jitted; batches are shared where all have one order."""
    replay = partial(_replay, structure, {b: dict(weights) for b, weights in bundles})
    return jax.jit(jax.vmap(replay, in_axes=(None, None, 0, None if same_order else 0, None)))


def _replay(
    structure: Recipe,
    bundles: Bundles,
    tangent: Tangent,
    operators: dict[str, tuple[Operator, Operator]],
    numbers: Settings,
    batches: Int[Array, "steps batch"],
    recorded: Bool[Array, "steps"],
) -> dict[str, Any]:
    """Values at every step, 0 where it is not recorded; the last is after all steps."""
    n, c = tangent.logits_train.shape
    dtype = tangent.logits_train.dtype
    start = {b: Coordinates(jnp.zeros((n, c), dtype), jnp.ones((), dtype)) for b in bundles}
    optimizer = optim.transform(structure, numbers, {b: b for b in bundles}, start)
    from_weights = {
        b: (_summed(tangent.weights_train, members), _summed(tangent.weights_test, members))
        for b, members in bundles.items()
    }
    first = losses.mean_loss(structure.loss, tangent.logits_train, tangent.labels_train)

    def logits(at: dict[str, Coordinates], part: int) -> Array:
        base = (tangent.logits_train, tangent.logits_test)[part]
        moves = [apply(operators[b][part], x.alpha) + (x.gamma - 1) * from_weights[b][part] for b, x in at.items()]
        return base + sum(moves)  # pyright: ignore

    def measure(at: dict[str, Coordinates], alive: Array) -> dict[str, Any]:
        on_train, on_test = logits(at, 0), logits(at, 1)
        return dict(
            train_loss=jnp.where(alive, losses.mean_loss(structure.loss, on_train, tangent.labels_train), jnp.inf),
            test_loss=losses.mean_loss(structure.loss, on_test, tangent.labels_test),
            train_accuracy=losses.accuracy(on_train, tangent.labels_train),
            test_accuracy=losses.accuracy(on_test, tangent.labels_test),
            **lengths(tangent, {g: (weight, at[b]) for b, w in bundles.items() for g, weight in w.items()}),
        )

    def step(carry: Any, inputs: tuple[Array, Array]) -> tuple[Any, dict[str, Any]]:
        at, opt_state, alive = carry
        batch, is_recorded = inputs
        blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(measure, at, alive))
        values = jax.lax.cond(is_recorded, measure, lambda at, alive: blank, at, alive)
        on_batch = tangent.logits_train[batch]
        for b, x in at.items():
            on_batch += apply_rows(operators[b][0], batch, x.alpha) + (x.gamma - 1) * from_weights[b][0][batch]
        y = tangent.labels_train[batch]
        residual = losses.gradient(structure.loss, on_batch, y)
        gradient = {b: Coordinates(jnp.zeros((n, c), dtype).at[batch].add(residual), jnp.zeros((), dtype)) for b in at}
        updates, new_state = optimizer.update(gradient, opt_state, at)
        alive &= ~losses.has_diverged(losses.mean_loss(structure.loss, on_batch, y), first)
        moved = (optax.apply_updates(at, updates), new_state)  # a diverged lane stands still, so that nothing overflows
        at, opt_state = jax.tree.map(lambda new, old: jnp.where(alive, new, old), moved, (at, opt_state))
        return (at, opt_state, alive), values

    if len(batches) == 0:  # a step cannot be traced without a rate
        return jax.tree.map(lambda v: v[None], measure(start, jnp.asarray(True)))
    (at, _, alive), values = jax.lax.scan(step, (start, optimizer.init(start), jnp.asarray(True)), (batches, recorded))
    last = measure(at, alive)
    return jax.tree.map(lambda v, end: jnp.concatenate([v, end[None]]), values, last)


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


def trajectory(at: Int[np.ndarray, "t"], values: dict[str, Any], seconds: float) -> Trajectory:
    """Values at the recorded steps as a Trajectory, cut where the run diverged."""
    diverged = np.asarray(losses.has_diverged(values["train_loss"], values["train_loss"][0]))
    keep = int(np.argmax(diverged)) if diverged.any() else len(at)
    if keep == 0:
        raise LinftError("the loss is not finite before the first step; check the model's weights")
    return Trajectory(
        steps=at[:keep],
        **jax.tree.map(lambda v: np.asarray(v)[:keep], values),
        seconds=seconds,
        diverged_at=int(at[keep]) if diverged.any() else None,
    )
