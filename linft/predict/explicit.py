"""Prediction in the weights of the linearized network, from its Jacobian itself: for any rule of updates, as Adam's.

Where an update is not linear in the gradient, the weights leave the span of w0 and of the Jacobians, and no kernel
follows them. With J [n c p] at hand the logits f0 + J (w − w0) and the gradient Jᵀ ∂L/∂f are matrix products, and
the optax chain moves the weights as in training, at the cost of the minibatch's rows of J, without the network. A
kernel J P Jᵀ with the preconditioner P held for a while would be exact while it is held, and takes as many products as
N C / 2 epochs of steps on J.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from linft.core import trees
from linft.core.base import BatchNorm, Kernel, Model, Tangent, Trajectory
from linft.core.draws import Draws
from linft.core.errors import LinftError, Unavailable
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.core.trees import Groups, Tree
from linft.ntk.layerwise import explicit as layerwise
from linft.ntk.tiled import memory
from linft.ntk.tiled.tiles import counter
from linft.predict import replay
from linft.predict.dual import of_logits, predictable
from linft.predict.feature_dual import head_settings, under_head
from linft.predict.feature_tangent import HEAD, FeatureTangent, leading, under, viewed
from linft.predict.replay import Network
from linft.predict.span import Lengths, OnBatch, Span, lifted, stacked
from linft.predict.tangent import in_mode, outputs_on
from linft.runtime.progress import Count
from linft.training import optimizer
from linft.training.optimizer import Settings

INSTEAD = "train the network linearized, finetune(linearize(model), task)"

STATES = 6
"""Weights, their average, two moments, gradient and update."""

ByPath = dict[str, Float[Array, "_"]]
"""By the path of a parameter, its numbers in the order of the Jacobian's."""
ByName = tuple[tuple[str, str], ...]
Pair = tuple[Array, Array]
"""To train on and to test on, preprocessed."""


class Jacobian(NamedTuple):
    """Of what is linearized, logits or features along some directions, at w0."""

    train: Float[Array, "n c p"]
    test: Float[Array, "m c p"]
    weights: ByPath
    """w0."""


def explicit(
    model: Model,
    task: Task,
    *,
    at: Literal["network", "features"] = "network",
    rank: int | None = 8,
    batch_norm: BatchNorm = "frozen",
    batch_size: int = 32,
    record_every: int | None = None,
    progress: Count | None = None,
) -> "Explicit":
    """Predict fine-tuning from the Jacobian at w0, moving the weights by the recipe's own optimizer: a Run.

        f = f0 + J (w − w0),   ∂L/∂w = Jᵀ ∂L/∂f

    Exactly the training of the linearized network, by any rule of updates: also Adam and AdamW, which `dual`,
    `feature_dual` and `moving` do not follow, since no kernel does. It holds the Jacobian, (N + M) C P numbers, and
    every step goes through the minibatch's rows of it. `many` as in `dual`.

    Args:
      at: network, or features, with the head exact.
      rank: of the features, the leading directions beside the head's along which they move, as in `feature_tangent`;
        None: all of them.
      batch_norm: as in `tangent`.
      record_every: measure every so many steps; about a dozen times by default.
      batch_size, progress: as in `empirical_ntk`.

    Raises:
      LinftError: no Jacobian predicts the recipe.
      Unavailable: too little memory.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(10, 10)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=4)
      >>> run = explicit(model, task)
      >>> adamw = linft.Recipe(optimizer="adam", convention="decoupled", learning_rate=1e-3, batch_size=5, steps=4)
      >>> run(adamw).train_loss.shape
      (5,)
    """
    model.check_classes(task)
    if at not in ("network", "features"):
        raise LinftError(f"at is {at!r}; choose among network, features")
    model = in_mode(model, task, batch_norm, progress)
    images = model.preprocess(task.x_train), model.preprocess(task.x_test)
    targets = jnp.asarray(task.y_train), jnp.asarray(task.y_test)
    groups = trees.split_vectors(model.layer_groups)
    if at == "network":
        on_train, on_test = (outputs_on(model, x) for x in images)
        start, view, head_groups = beginning(targets, task.draws, batch_norm, on_train, on_test), model, ()
        own = by_path(trees.labels(model.params, groups))
    else:
        start, view, head_groups = _features(model, targets, task.draws, batch_norm, images, groups, rank)
        own = by_path(trees.labels(view.params, view.layer_groups))
        own = tuple((path, group) for path, group in own if group != HEAD)
    found = jacobian(view, own, images, batch_size, progress)
    return Explicit(found, start, own, head_groups, record_every)


@dataclass(frozen=True)
class Explicit:
    """The Run that `explicit` gives."""

    jacobian: Jacobian
    start: Tangent | FeatureTangent
    """Outputs at w0 and labels, with no kernel."""
    groups: ByName
    """By the path of a parameter in the Jacobian, the group that it belongs to."""
    head_groups: ByName
    """By the name of an array of a head that stays exact."""
    record_every: int | None = None

    @property
    def by(self) -> Literal["Jacobian"]:
        """By what it predicts, as of `predict.nearest`."""
        return "Jacobian"

    @property
    def batch_norm(self) -> BatchNorm:
        """Of the recipes that it takes."""
        return (self.start if isinstance(self.start, Tangent) else self.start.projected).batch_norm

    def __call__(self, recipe: Recipe) -> Trajectory:
        return self.many([recipe])[0]

    def many(self, recipes: Iterable[Recipe]) -> list[Trajectory]:
        """One compiled program for all recipes of one structure and one sequence of minibatches."""
        taken = predictable(recipes, self.batch_norm, self.start.draws, "Jacobian")
        return replay.many(taken, self.start.num_images, self._family)

    def _family(self, recipes: list[Recipe]) -> list[Trajectory]:
        n, rows = self.start.num_images, self.start.rows(recipes[0])
        row = self.jacobian.train[0].nbytes
        needs = {
            "the rows of a minibatch": recipes[0].batch_size_for(n) * row,
            "the weights of every recipe": STATES * len(recipes) * row // self.jacobian.train.shape[1],
        }
        memory.check(needs, memory.budget(None), f"use smaller batches, fewer recipes at once, or {INSTEAD}")
        whole, stages = settings_by_path(recipes, self.groups, self.head_groups, n), by_stage(self.groups)
        build = _logits if isinstance(self.start, Tangent) else _under_head
        found = replay.replay(build, stages, (self.jacobian, self.start), whole, recipes, rows, self.record_every)
        return [replayed.trajectory for replayed in found]


def _logits(names: ByName, arrays: tuple[Jacobian, Tangent]) -> Network:
    found, start = arrays
    return of_logits(in_weights(names, found), start)


def _under_head(names: ByName, arrays: tuple[Jacobian, FeatureTangent]) -> Network:
    found, start = arrays
    return under_head(lifted(in_weights(names, found), start.directions), start)


def in_weights(names: ByName, found: Jacobian) -> Span:
    """Outputs as functions of the weights themselves, apart from what they are at w0.

    Args:
      names: by the path of every parameter, the stage that it counts to.
    """
    origin, paths = found.weights, [path for path, _ in names]
    ends = np.cumsum([len(origin[path]) for path in paths])[:-1]

    def moved(at: ByPath) -> Float[Array, "p"]:
        return joined(names, at) - joined(names, origin)

    def of_batch(at: ByPath, batch: Int[Array, "b"]) -> OnBatch:
        rows = found.train[batch]

        def gradient(residual: Array) -> ByPath:
            whole = jnp.tensordot(residual, rows, 2)
            return dict(zip(paths, jnp.split(whole, ends), strict=True))

        def squares(residual: Array) -> dict[str, Array]:
            return {path: jnp.vdot(own, own) for path, own in gradient(residual).items()}

        return OnBatch(rows @ moved(at), gradient, squares)

    def lengths(at: ByPath) -> Lengths:
        squares = {kind: dict.fromkeys(dict(names).values(), jnp.zeros(())) for kind in ("distance", "norm")}
        for path, stage in names:
            for kind, own in (("distance", at[path] - origin[path]), ("norm", at[path])):
                squares[kind][stage] = squares[kind][stage] + jnp.vdot(own, own)
        return jax.tree.map(jnp.sqrt, squares)

    return Span(
        origin, origin, lambda at: found.train @ moved(at), lambda at: found.test @ moved(at), of_batch, lengths
    )


def joined(names: ByName, by_path: Mapping[str, Array]) -> Float[Array, "*k p"]:
    """The numbers of all parameters as one vector, in the order of the Jacobian's."""
    return jnp.concatenate([by_path[path] for path, _ in names], axis=-1)


def why_unavailable(model: Model, task: Task) -> str | None:
    """Why there is no Jacobian of this network to be had on this machine; None where there is one."""
    paths = tuple(trees.path_of(p) for p, _ in jax.tree_util.tree_leaves_with_path(model.params))
    try:
        weights_of(model, paths, model.preprocess(task.x_train[:1]), len(task.y_train) + len(task.y_test))
    except Unavailable as reason:
        return str(reason)
    return None


def _features(
    model: Model,
    targets: Pair,
    draws: Draws | None,
    batch_norm: BatchNorm,
    images: Pair,
    groups: Groups,
    rank: int | None,
) -> tuple[FeatureTangent, Model, ByName]:
    """Where features begin and along what they move, the network of which those are logits, and the head's groups."""
    head = dict(trees.get(model.params, model.head))
    every = jnp.eye(len(head["kernel"]), dtype=model.dtype)
    on_train, on_test = (outputs_on(under(model, every), x) for x in images)
    along = every
    if rank is not None:
        along = jnp.asarray(leading(np.asarray(on_train), np.asarray(head["kernel"]), rank), model.dtype)
    view, _, head_groups = viewed(model, groups, along)
    projected = beginning(targets, draws, batch_norm, on_train @ along, on_test @ along)
    return FeatureTangent(projected, along, on_train, on_test, head, 0.0, by_stage(head_groups)), view, head_groups


def beginning(targets: Pair, draws: Draws | None, batch_norm: BatchNorm, on_train: Array, on_test: Array) -> Tangent:
    """A tangent of no groups: outputs and labels."""
    nothing = Kernel({}, "full")
    return Tangent(on_train, on_test, *targets, nothing, nothing, {}, {}, {}, {}, batch_norm, draws)


def by_path(labels: Tree) -> ByName:
    """The leaves of a tree."""
    return tuple((trees.path_of(p), group) for p, group in jax.tree_util.tree_leaves_with_path(labels))


def by_stage(groups: ByName) -> ByName:
    """The stage of every group."""
    return tuple((name, trees.stage(group)) for name, group in groups)


def settings_by_path(recipes: list[Recipe], groups: ByName, head_groups: ByName, n: int) -> Settings:
    """What recipes set for every parameter, stacked: by its path, and by name for those of a head that stays exact."""
    names = tuple(dict.fromkeys(group for _, group in (*groups, *head_groups)))
    settings = [optimizer.settings(recipe, names, n) for recipe in recipes]
    below = stacked([s.on({path: s.groups[group] for path, group in groups}) for s in settings])
    return below.on(below.groups | head_settings(settings, head_groups).groups)


def jacobian(model: Model, groups: ByName, images: Pair, batch_size: int, progress: Count | None) -> Jacobian:
    """Of a model's logits at its own weights."""
    count = sum(map(len, images))
    batch = 2 * min(batch_size, len(images[0]))  # rows of which are there by layer, and joined
    weights = weights_of(model, tuple(path for path, _ in groups), images[0], count + batch)
    tell = counter(progress, count)
    stages = {path: trees.stage(group) for path, group in groups}
    on_train, on_test = (layerwise.jacobian(model, x, stages, batch_size, tell) for x in images)
    return Jacobian(on_train, on_test, weights)


def weights_of(model: Model, paths: tuple[str, ...], x: Array, rows: int) -> ByPath:
    """Those of some parameters, as their Jacobian has them, if there is memory for it on so many images."""
    weights = layerwise.flattened(model, x, paths)
    row = model.num_classes * sum(map(len, weights.values())) * model.dtype.itemsize
    memory.check({"the Jacobian": rows * row}, memory.budget(None), f"use fewer images, or {INSTEAD}")
    return weights
