"""An optimizer replayed in coordinates of the weights, without the network: what exact predictions share.

An update of SGD is linear in gradient, velocity, weights and what decay pulls them to. Where weights are
a linear function of coordinates, the chain that trains weights may move the coordinates instead.
"""

import time
from collections.abc import Callable, Hashable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from linft.core import losses, trees
from linft.core.base import Trajectory, recorded_steps
from linft.core.draws import Draws
from linft.core.errors import LinftError
from linft.core.losses import Labels
from linft.core.recipe import Recipe
from linft.core.recipe_fields import structure
from linft.core.trees import Tree
from linft.predict.span import OnBatch
from linft.training import optimizer
from linft.training.optimizer import Settings


class Network(NamedTuple):
    """A network whose weights are given by coordinates."""

    origin: Tree
    """Coordinates of the pretrained weights, a multiple of which decay pulls to."""
    here: Tree
    """Coordinates of the weights at which the replay begins."""
    groups: Tree
    """What every subtree of the coordinates is called in the settings."""
    of_batch: Callable[[Tree, Int[Array, "b"]], OnBatch]
    """(coordinates, training images) -> their logits, and what a gradient there is to the weights."""
    logits: Callable[[Tree], tuple[Float[Array, "n c"], Float[Array, "m c"]]]
    """Of all training and all test images."""
    lengths: Callable[[Tree], dict[str, dict[str, Float[Array, ""]]]]
    """Distance moved and norm of every layer group."""
    towards: Labels
    """What every image that a step may take is trained towards."""
    labels_train: Labels
    labels_test: Int[Array, "m"]
    resume: Callable[[Any], Any] = lambda state: state
    """From the optimizer's first state to the one that the replay begins with."""
    average: Tree | None = None
    """Coordinates of the weights' average where the replay begins; None: the same."""


class Stop(NamedTuple):
    """Where a replay is after a step, or stood before it diverged."""

    at: Tree
    """Coordinates."""
    measured: Tree
    """Those of the weights' average, at which it is measured, where the recipe has one; else the same."""


class Replayed(NamedTuple):
    """What a replay gives."""

    trajectory: Trajectory
    stops: dict[int, Stop]
    """By the steps that were asked for."""


def on_images(network: Network, draws: Draws | None) -> Network:
    """A network that trains on draws, measured on the training images as they are: the first of its test images."""
    if draws is None:
        return network
    n = len(network.towards) // draws.count

    def logits(at: Tree) -> tuple[Array, Array]:
        of_test = network.logits(at)[1]
        return of_test[:n], of_test[n:]

    return network._replace(logits=logits, labels_train=network.labels_test[:n], labels_test=network.labels_test[n:])


Build = Callable[[Any, Any], Network]
"""(names, arrays) -> Network; the names are hashable, and part of what a program is compiled for."""


def many(recipes: list[Recipe], n: int, family: Callable[[list[Recipe]], list[Trajectory]]) -> list[Trajectory]:
    """Trajectories of recipes, those of one structure and one sequence of minibatches at once."""
    families: dict[Any, list[int]] = {}
    for i, recipe in enumerate(recipes):
        families.setdefault((structure(recipe), recipe.order(n)), []).append(i)
    results: dict[int, Trajectory] = {}
    for members in families.values():
        results.update(zip(members, family([recipes[i] for i in members]), strict=True))
    return [results[i] for i in range(len(recipes))]


def replay(
    build: Build,
    names: Hashable,
    arrays: Any,
    settings: Settings,
    recipes: list[Recipe],
    rows: Int[np.ndarray, "steps batch"],
    record_every: int | None,
    first: int = 0,
    stops: tuple[int, ...] = (),
) -> list[Replayed]:
    """One family of recipes, vmapped: their minibatches from step `first` on, in one compiled program.

    They share the minibatches, so that a step is one matrix product for all of them.

    Args:
      build, names, arrays: the network, made where it is compiled.
      settings: of the recipes, stacked.
      rows: of the tangent, that every step takes.
      record_every: measure every so many steps; about a dozen times by default.
      stops: steps whose coordinates are wanted; as many of them are one compiled program.
    """
    begin = time.perf_counter()
    batches = rows[first:]
    steps = first + len(batches)
    at = recorded_steps(steps, record_every)
    at = at[at >= first]
    recorded = np.isin(np.arange(first, steps + 1), at)
    with jax.default_matmul_precision("highest"):
        wanted = np.array(stops, np.int32) - first
        values, kept = jax.device_get(_lanes(build, names)(arrays, settings, batches, recorded, wanted))
    seconds = (time.perf_counter() - begin) / len(recipes)
    return [
        Replayed(
            trajectory(at, jax.tree.map(lambda v, lane=lane: v[lane][at - first], values), seconds),
            {
                stop: Stop(*jax.tree.map(lambda v, lane=lane, place=place: v[lane][place], kept))
                for place, stop in enumerate(stops)
            },
        )
        for lane in range(len(recipes))
    ]


@lru_cache(maxsize=32)
def _lanes(build: Build, names: Hashable) -> Callable:
    """The replay, vmapped over the numbers of recipes and jitted."""
    return jax.jit(jax.vmap(partial(_replay, build, names), in_axes=(None, 0, None, None, None)))


def _replay(
    build: Build,
    names: Hashable,
    arrays: Any,
    settings: Settings,
    batches: Int[Array, "steps batch"],
    recorded: Bool[Array, "steps+1"],
    stops: Int[Array, "s"],
) -> tuple[dict[str, Any], tuple[Tree, Tree]]:
    """Values before every step and after all, 0 where not recorded; where the run stops, and is measured there."""
    network = build(names, arrays)
    chain = optimizer.transform(settings, network.groups, network.origin)
    recipe, loss_name = settings.structure, settings.structure.loss
    first = losses.mean_loss(loss_name, network.logits(network.here)[0], network.labels_train)

    def measure(at: Tree, alive: Array) -> dict[str, Any]:
        on_train, on_test = network.logits(at)
        loss = losses.mean_loss(loss_name, on_train, network.labels_train)
        return dict(
            train_loss=jnp.where(alive, loss, jnp.inf),
            test_loss=losses.mean_loss(loss_name, on_test, network.labels_test),
            train_accuracy=losses.accuracy(on_train, network.labels_train),
            test_accuracy=losses.accuracy(on_test, network.labels_test),
            **network.lengths(at),
        )

    def everywhere(at: Tree) -> Tree:
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (len(stops), *x.shape)), at)

    def like(hit: Array, kept: Array) -> Array:
        return hit.reshape(-1, *(1,) * (kept.ndim - 1))

    def averaged(average: Tree, new: Tree) -> Tree:
        return trees.interpolated(average, new, 1 - recipe.ema) if recipe.ema > 0 else new

    def step(carry: Any, inputs: tuple[Array, Array, Array]) -> tuple[Any, dict[str, Any]]:
        at, average, opt_state, alive, kept = carry
        i, batch, is_recorded = inputs
        values = jax.lax.cond(is_recorded, measure, lambda at, alive: blank, average, alive)
        logits, gradient, squares = network.of_batch(at, batch)
        y = network.towards[batch]
        residual = losses.gradient(loss_name, logits, y, recipe.label_smoothing)
        to_clip = {} if recipe.clip_norm is None else {"squares": squares(residual)}
        updates, new_state = chain.update(gradient(residual), opt_state, at, **to_clip)
        alive &= ~losses.has_diverged(losses.mean_loss(loss_name, logits, y), first)
        new = optax.apply_updates(at, updates)
        moved = new, averaged(average, new), new_state
        moves = alive & (i < len(batches))  # a diverged lane stands still, so that nothing overflows
        stood = jax.tree.map(lambda new, old: jnp.where(moves, new, old), moved, (at, average, opt_state))
        kept = jax.tree.map(lambda new, old: jnp.where(like(stops == i + 1, old), new, old), stood[:2], kept)
        return (*stood, alive, kept), values

    alive, average = jnp.asarray(True), network.here if network.average is None else network.average
    if len(batches) == 0:  # a step cannot be traced without a rate
        return jax.tree.map(lambda v: v[None], measure(average, alive)), everywhere((network.here, average))
    blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(measure, average, alive))
    begin = (
        network.here,
        average,
        network.resume(chain.init(network.here)),
        alive,
        everywhere((network.here, average)),
    )
    # After the last step one more that moves nothing: measuring is compiled once so.
    steps = jnp.arange(len(batches) + 1), jnp.concatenate([batches, batches[-1:]]), recorded
    (*_, kept), values = jax.lax.scan(step, begin, steps)
    return values, kept


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
