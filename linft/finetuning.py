"""The real run: train a model's weights on a task by a recipe, with optax."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from linft import losses, optim, trees
from linft.base import Model, OneByOne, Run, Trajectory, recorded_steps
from linft.errors import LinftError
from linft.recipe import Recipe
from linft.task import Task
from linft.training import State, steps_per_call, training
from linft.trees import Groups, Tree

EVAL_BATCH = 250

Progress = Callable[[int, int, float], None]
"""Called at every recorded step with (step, steps, train loss)."""


def finetune(model: Model, task: Task, *, record_every: int | None = None, progress: Progress | None = None) -> Run:
    """Train the model's weights on the task: a Run.

    With `batch_norm="frozen"` the network is in evaluation mode throughout; with "train" the batch's
    statistics are used and their running averages kept (and dropout is on), and the recorded values
    are those of evaluation mode. Of a linearized model this trains the linearized network.

    Args:
      record_every: measure every so many steps; about a dozen times by default.
      progress: called at every recorded step.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(20, 20, seed=0)
      >>> model = linft.models.create("cifar_resnet8", task.num_classes, jax.random.key(0), width=4)
      >>> run = linft.finetune(model, task)
      >>> run(linft.Recipe(steps=2, batch_size=10)).steps
      array([0, 1, 2])
    """
    model.check_classes(task)
    train = jnp.asarray(model.preprocessing.resize(task.x_train))
    test = jnp.asarray(model.preprocessing.resize(task.x_test))
    y_train, y_test = jnp.asarray(task.y_train), jnp.asarray(task.y_test)
    groups = tuple(model.layer_groups)
    group_labels = trees.labels(model.params, model.layer_groups)

    @jax.jit
    def logits_of(params: Tree, batch_stats: Tree, images: Array) -> Array:
        return model.forward(params, batch_stats, model.preprocessing.normalize(images))[0]

    @jax.jit
    def moved(params: Tree) -> dict[str, Array]:
        difference = trees.subtract(params, model.params)
        squares = trees.dots_by_group(difference, difference, group_labels, groups)
        return {g: jnp.sqrt(s) for g, s in squares.items()}

    def logits_of_all(state: State, images: Array) -> Array:
        parts = [
            logits_of(state.params, state.batch_stats, images[i : i + EVAL_BATCH])
            for i in range(0, len(images), EVAL_BATCH)
        ]
        return jnp.concatenate(parts)

    def measure(state: State, recipe: Recipe) -> dict[str, Any]:
        """The values at one recorded step."""
        on_train, on_test = logits_of_all(state, train), logits_of_all(state, test)
        values = dict(
            train_loss=losses.mean_loss(recipe.loss, on_train, y_train),
            test_loss=losses.mean_loss(recipe.loss, on_test, y_test),
            train_accuracy=losses.accuracy(on_train, y_train),
            test_accuracy=losses.accuracy(on_test, y_test),
            distance=moved(state.params),
        )
        return jax.device_get(values)

    programs: dict[Any, tuple[Callable, Callable]] = {}

    def run(recipe: Recipe) -> Trajectory:
        begin = time.perf_counter()
        batches = recipe.batches(len(train))
        groups_needed = optim.groups_for(recipe, model.layer_groups)
        numbers = optim.settings(recipe, _used(model, groups_needed), len(train))
        compiled = (optim.structure(recipe), tuple(groups_needed.items()))
        if compiled not in programs:  # recipes that differ in numbers only share one
            programs[compiled] = training(model, compiled[0], groups_needed)
        begin_state, advance = programs[compiled]
        state, key = begin_state(numbers), jax.random.key(recipe.seed)
        rows: list[dict[str, Any]] = []
        steps = recorded_steps(len(batches), record_every)
        diverged_at, done = None, 0
        for step in steps:
            while done < step:
                several = min(steps_per_call(), step - done)
                state = advance(state, batches[done : done + several], numbers, key, train, y_train)
                done += several
            row = measure(state, recipe)
            if bool(losses.has_diverged(row["train_loss"], rows[0]["train_loss"] if rows else row["train_loss"])):
                diverged_at = int(step)
                break
            rows.append(row)
            if progress is not None:
                progress(int(step), len(batches), float(row["train_loss"]))
        if not rows:
            raise LinftError("the loss is not finite before the first step; check the model's weights")
        return Trajectory(
            steps=steps[: len(rows)],
            **{k: np.array([row[k] for row in rows]) for k in rows[0] if k != "distance"},  # pyright: ignore
            distance={g: np.array([row["distance"][g] for row in rows]) for g in groups},
            seconds=time.perf_counter() - begin,
            diverged_at=diverged_at,
            model=model.replace(params=state.params, batch_stats=state.batch_stats, class_means=None),
        )

    return OneByOne(run)


def _used(model: Model, groups: Groups) -> tuple[str, ...]:
    """The groups that have parameters."""
    return tuple(dict.fromkeys(jax.tree.leaves(trees.labels(model.params, groups))))
