"""What is recorded of a training state: losses and accuracies of both parts, and how far the weights are."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from linft.core import losses, parallel, trees
from linft.core.base import Model
from linft.core.errors import LinftError
from linft.core.forward_pass import forward_pass
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.core.trees import Tree
from linft.data.lazy import LazyImages
from linft.models import batch_norm
from linft.training.step import Execution, State

BATCH = 256  # divisible among most numbers of devices
STREAMED_TRAIN = 10_000  # training images of a streamed task that its train curve is over

Measurement = dict[str, Any]
"""Values at one recorded step: numbers, and by group the distance moved and the norm of the weights."""


@dataclass(frozen=True)
class Part:
    """Images of the input size on the device, or to be read; and their labels."""

    images: Any
    labels: Int[np.ndarray, "n"]


def parts(model: Model, task: Task, execution: Execution, held: Array | None) -> tuple[Part, Part]:
    """The training part, whose images the device may hold already, and the test part.

    Of a training part that is streamed, as many images as `STREAMED_TRAIN`, drawn with seed 0.
    """
    x_train, y_train = task.x_train, task.y_train
    if isinstance(x_train, LazyImages) and len(x_train) > STREAMED_TRAIN:
        keep = np.sort(np.random.default_rng(0).permutation(len(x_train))[:STREAMED_TRAIN])
        x_train, y_train = x_train.take(keep), y_train[keep]

    def images(of_part: Any) -> Any:
        if isinstance(of_part, LazyImages):
            return of_part
        return parallel.replicate(execution.mesh, model.preprocessing.resize(of_part))

    train = images(x_train) if held is None else held
    return Part(train, y_train), Part(images(task.x_test), task.y_test)


def evaluation(model: Model, train: Part, test: Part, execution: Execution) -> Callable[[Recipe, State], Measurement]:
    """A function (recipe, state) -> row, in evaluation mode.

    A recipe with batch norm in training mode is measured with its running averages and, on one device, with
    the statistics of the training images re-estimated at its weights too.
    """
    groups = tuple((stage, tuple(prefixes)) for stage, prefixes in model.stages.items())
    lengths = _lengths(groups, execution.mesh)

    @cache  # on the host, once a run, and only where it is asked for
    def images() -> Any:
        return train.images if isinstance(train.images, LazyImages) else np.asarray(train.images)

    def curves(recipe: Recipe, params: Tree, batch_stats: Tree) -> Measurement:
        found = {}
        for name, part in (("train", train), ("test", test)):
            outputs, labels = _logits(model, params, batch_stats, part, execution), jnp.asarray(part.labels)
            logits = jnp.asarray(outputs)
            found[f"{name}_loss"] = float(losses.mean_loss(recipe.loss, logits, labels))
            found[f"{name}_accuracy"] = float(losses.accuracy(logits, labels))
        return found

    def measure(recipe: Recipe, state: State) -> Measurement:
        params, batch_stats = state.measured
        row: Measurement = curves(recipe, params, batch_stats)
        if recipe.batch_norm == "train" and model.has_statistics and execution.mesh is None:
            there = model.replace(params=params, batch_stats=batch_stats)
            own = batch_norm.reestimated(there, images()).batch_stats
            row["reestimated"] = curves(recipe, params, own)
        by_group = jax.device_get(lengths(params, model.params))  # JAX sorts names; groups have an order
        return row | {kind: {g: float(by_group[kind][g]) for g, _ in groups} for kind in ("distance", "norm")}

    return measure


def refuse_start(model: Model, state: State, train: Part, execution: Execution) -> NoReturn:
    """Say why the loss is not finite before the first step: the weights, or an image."""
    wrong = ~np.isfinite(_logits(model, *state.measured, train, execution)).all(1)
    begin = "the loss is not finite before the first step; "
    if not wrong.any() or not bool(trees.finite(state.measured)):
        raise LinftError(begin + "check the model's weights")
    raise LinftError(
        f"{begin}the weights are finite, and the logits of training image {int(wrong.argmax())} are not: "
        "the network divides by zero there, or, if linearized, its derivative (the Jacobian-vector product) "
        "is not finite, as a norm has none at zero (add a small number under its root)"
    )


def _logits(
    model: Model, params: Tree, batch_stats: Tree, part: Part, execution: Execution
) -> Float[np.ndarray, "n c"]:
    logits_of = forward_pass(model.forward, "logits", model.preprocessing, execution.mesh)

    def batches() -> Iterator[Array]:
        for i in range(0, len(part.images), BATCH):
            rows = part.images[i : i + BATCH]
            lazy = isinstance(rows, LazyImages)
            yield parallel.replicate(execution.mesh, model.preprocessing.resize(rows)) if lazy else rows

    computed = [logits_of(params, batch_stats, images) for images in batches()]
    return np.concatenate([np.asarray(logits) for logits in computed])


@lru_cache(maxsize=8)
def _lengths(groups: tuple[tuple[str, tuple[str, ...]], ...], mesh: Mesh | None) -> Callable:
    """By group the distance between two params and the norm of the first."""

    @jax.jit
    def lengths(params: Tree, origin: Tree) -> dict[str, dict[str, Array]]:
        moved, labels = trees.subtract(params, origin), trees.labels(params, dict(groups))
        squares = {
            "distance": trees.dots_by_group(moved, moved, labels, dict(groups)),
            "norm": trees.dots_by_group(params, params, labels, dict(groups)),
        }
        return jax.tree.map(lambda x: parallel.everywhere(mesh, jnp.sqrt(x)), squares)

    return lengths
