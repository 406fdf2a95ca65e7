"""What a run would be, before it is made: shapes, parameters, memory, steps, time."""

import time
from typing import Any

import jax
import numpy as np

from linft.core import trees
from linft.core.base import Model
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.data.augment import AUGMENTATIONS
from linft.training import optimizer
from linft.training.batches import feed
from linft.training.step import Execution, begin_training

TIMED = 3  # steps, after the one that compiles


def plan(model: Model, task: Task, recipe: Recipe, execution: Execution = Execution()) -> dict[str, Any]:
    """Describe a run and time a few of its steps, on a copy of the weights.

    | key | value |
    | --- | --- |
    | groups | by stage, or part of one with its own settings: parameters, rate, decay, shape of every parameter |
    | parameters, trained | all, and those that are not frozen |
    | steps, steps_per_epoch, batch_size | numbers |
    | step_memory | bytes that the compiled step needs beside its arguments; None where the device does not tell |
    | state_memory, images_memory | bytes of parameters, statistics and optimizer; of images on the device |
    | seconds_per_step, seconds | of a step, after compilation; of all steps, without the measurements |

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(20, 20)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=2)
      >>> plan(model, task, Recipe(batch_size=10, epochs=3))["steps"]
      6
    """
    n = len(task.y_train)
    order = recipe.order(n)
    execution.check(order.batch_size)
    state, advance = begin_training(model, recipe, n, execution)
    source = feed(model, task, AUGMENTATIONS[recipe.augmentation].canvas, execution, 0)
    sizes = [_bytes(state), _bytes(source.held) if source.held is not None else 0]
    memory, seconds = None, []
    for batch in source.batches(order, 0, range(1, TIMED + 2)):
        if memory is None:
            memory = _memory(advance, state, batch, source.held)
        began = time.perf_counter()
        state, losses = advance(state, batch, source.held)
        jax.block_until_ready(losses)
        seconds.append(time.perf_counter() - began)
    step = float(np.median(seconds[1:]))
    by_group = _by_group(model, recipe)
    return {
        "groups": by_group,
        "parameters": trees.count(model.params),
        "trained": sum(group["parameters"] for group in by_group.values() if group["learning_rate"] > 0),
        "steps": order.steps,
        "steps_per_epoch": order.steps_per_epoch,
        "batch_size": order.batch_size,
        "step_memory": memory,
        "state_memory": sizes[0],
        "images_memory": sizes[1],
        "seconds_per_step": step,
        "seconds": step * order.steps,
    }


def _by_group(model: Model, recipe: Recipe) -> dict[str, dict[str, Any]]:
    groups = optimizer.kernel_groups(model.layer_groups, recipe.replace(decay_vectors=True))
    labels = trees.labels(model.params, groups)
    rows: dict[str, dict[str, Any]] = {
        group: {
            "parameters": 0,
            "learning_rate": recipe.learning_rate * recipe.multiplier(first),
            "decay": recipe.decay(first)[0],
            "towards": "pretrained" if recipe.decay(first)[1] else "zero",
            "shapes": {},
        }
        for group in groups
        for first in trees.members(group)[:1]
    }
    leaves = jax.tree_util.tree_leaves_with_path(model.params)
    for label, (path, leaf) in zip(jax.tree.leaves(labels), leaves, strict=True):
        rows[label]["parameters"] += leaf.size
        rows[label]["shapes"][trees.path_of(path)] = list(leaf.shape)
    return rows


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _memory(advance: Any, *arguments: Any) -> int | None:
    analysis = advance.func.lower(*arguments, **advance.keywords).compile().memory_analysis()
    return getattr(analysis, "temp_size_in_bytes", None)
