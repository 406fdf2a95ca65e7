"""The real run: train a model's weights on a task by a recipe, with optax."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import jax
import numpy as np

from linft import batch_norm, delta, interruption, optim, parallel, trees
from linft.base import Model, OneByOne, Run, Trajectory, recorded_steps
from linft.checkpoints import Checkpoints
from linft.data.augment import AUGMENTATIONS
from linft.errors import LinftError
from linft.feeding import Feed, feed
from linft.losses import has_diverged
from linft.measuring import Row, measuring, parts
from linft.recipe import Recipe
from linft.task import Task
from linft.training import Execution, State, training
from linft.trees import Groups

LOGS = 100  # at most so many times a run says how it goes

Progress = Callable[[int, int, float], None]
"""Called now and then with (step, steps, loss of the last minibatches)."""

Track = Callable[[int, dict[str, float]], None]
"""Called with (step, values by name): of the minibatches now and then, of both parts at recorded steps."""

Tracking = Callable[[int | None], AbstractContextManager[Track]]
"""Opens a Track, knowing the step that a run goes on from, if any; `tracking.open` is of this kind."""


def finetune(
    model: Model,
    task: Task,
    *,
    record_every: int | None = None,
    progress: Progress | None = None,
    tracking: Tracking | None = None,
    execution: Execution = Execution(),
    workers: int = 0,
    checkpoints: Checkpoints | None = None,
    until: int | None = None,
) -> Run:
    """Train the model's weights on the task: a Run.

    With `batch_norm="frozen"` the network is in evaluation mode throughout; with "train" the batch's
    statistics are used and their running averages kept (and dropout is on), and the recorded values
    are those of evaluation mode; "reestimated" takes the statistics of the task's training images
    first and freezes them. Of a linearized model this trains the linearized network.

    Args:
      record_every: measure every so many steps; about a dozen times by default.
      progress: called as the run goes on.
      tracking: opens what the run's numbers are written to.
      execution: precision, accumulation of gradients, devices.
      workers: processes that read a streamed task's images; 0 reads by threads.
      checkpoints: a run that was cut off, of the same recipe, goes on from the newest of these, to the
        same end bit for bit (on CPU); they are written at every recorded step, and on SIGTERM.
      until: stop after so many steps of the recipe.

    Raises:
      LinftError: the model has another number of classes than the task; the loss is not finite at the start.
      KeyboardInterrupt: after SIGTERM or Ctrl-C, the checkpoint being written.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(20, 20, seed=0)
      >>> model = linft.models.create("cifar_resnet8", task.num_classes, jax.random.key(0), width=4)
      >>> run = linft.finetune(model, task)
      >>> run(linft.Recipe(steps=2, batch_size=10)).steps
      array([0, 1, 2])
    """
    model.check_classes(task)
    n = len(task.y_train)
    feed_for: Callable[[bool], Feed] = cache(lambda canvas: feed(model, task, canvas, execution, workers))
    plain = feed_for(False)
    train, test = parts(model, task, execution, None if plain.held is None else plain.held.images)
    measure, _ = measuring(model, train, test, execution)
    programs: dict[Any, tuple[Callable, Callable]] = {}

    def program(recipe: Recipe, groups: Groups) -> tuple[Callable, Callable]:
        key = (optim.structure(recipe), tuple(groups.items()))
        if key not in programs:  # recipes that differ in numbers only share one
            begun = batch_norm.reestimated(model, task.x_train) if recipe.batch_norm == "reestimated" else model
            penalty = delta.penalty(model, delta.attention(model, task)) if recipe.delta > 0 else None
            programs[key] = training(begun, key[0], groups, execution, penalty)
        return programs[key]

    def trained(state: State) -> Model:
        params, batch_stats = state[:2] if execution.mesh is None else jax.device_get(state[:2])
        return model.replace(params=params, batch_stats=batch_stats, class_means=None)

    def run(recipe: Recipe) -> Trajectory:
        began = time.perf_counter()
        execution.check(recipe.batch_size_for(n))
        groups = optim.groups_for(recipe, model.layer_groups)
        numbers = optim.settings(recipe, _used(model, groups), n)
        begin, advance = program(recipe, groups)
        source = feed_for(AUGMENTATIONS[recipe.augmentation].canvas)
        total, rates = recipe.num_steps(n), recipe.rates(n)
        end = total if until is None else min(until, total)
        recorded = {step for step in recorded_steps(total, record_every).tolist() if step < end} | {end}
        stops = recorded | set(range(0, end, max(1, total // LOGS)))
        state, done, rows, before, resumed = begin(numbers), 0, [], np.zeros(0), None
        if checkpoints is not None and (found := checkpoints.restore(state)) is not None:
            done, state, log = found
            resumed, rows, before, began = done, log["rows"], np.array(log["losses"], float), began - log["seconds"]

        def save(step: int, at: State, losses: np.ndarray, metric: float | None = None) -> None:
            if checkpoints is not None:
                log = {"rows": rows, "losses": losses.tolist(), "seconds": time.perf_counter() - began}
                checkpoints.save(step, at, log, metric)

        def record(step: int, at: State, track: Track) -> bool:
            """Measure and keep; False where the loss is beyond recovery."""
            row = measure(at, recipe)
            if bool(has_diverged(row["train_loss"], rows[0]["train_loss"] if rows else row["train_loss"])):
                return False
            rows.append({"step": step, **row})
            track(step, _flat(row))
            save(step, at, np.zeros(0), row["test_accuracy"])
            return True

        def segments() -> Iterator[tuple[int, State, np.ndarray]]:
            """Step, state and the minibatches' losses since the last stop, at every stop and when asked to leave."""
            step, at, losses = done, state, [before]
            start, placed = _placed(execution, (model.params, numbers))
            for batch in source.batches(recipe, done, sorted(stop for stop in stops if stop > done)):
                at, of_batch = advance(at, batch, placed, start, np.uint32(recipe.seed), source.held)
                step, losses = step + len(batch.index), [*losses, of_batch]
                if step in stops or requested():
                    losses = [np.concatenate([np.asarray(x, float) for x in losses])]
                    yield step, at, losses[0]
                    losses = []

        diverged_at = None
        with interruption.deferred() as requested, tracking(resumed) if tracking else _untracked() as track:
            if not rows and not record(done, state, track):
                raise LinftError("the loss is not finite before the first step; check the model's weights")
            clock = time.perf_counter()
            for done, state, losses in segments():
                if not np.isfinite(losses).all():
                    diverged_at = done - len(losses) + 1 + int(np.argmin(np.isfinite(losses)))
                    break
                if done in stops:
                    pace = len(losses) * recipe.batch_size_for(n) / (time.perf_counter() - clock)
                    loss, rate = float(losses.mean()), float(rates[done - 1])
                    track(done, {"loss": loss, "learning_rate": rate, "images_per_second": pace})
                    if progress is not None:
                        progress(done, end, loss)
                if done in recorded and not record(done, state, track):
                    diverged_at = done
                    break
                if requested():
                    if done not in recorded:
                        save(done, state, np.zeros(0) if done in stops else losses)
                    break
                clock = time.perf_counter()
            if checkpoints is not None:
                checkpoints.wait()
            if requested() and done < end:
                raise KeyboardInterrupt
        best = None if checkpoints is None else checkpoints.best(state)
        return Trajectory(
            **_curves(rows),
            seconds=time.perf_counter() - began,
            diverged_at=diverged_at,
            model=trained(state),
            best=None if best is None else trained(best[1]),
        )

    return OneByOne(run)


def _curves(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows as the arrays of a trajectory."""
    curves = jax.tree.map(lambda *values: np.array(values), *rows)
    return {"steps": curves.pop("step"), **curves}


def _flat(row: Row) -> dict[str, float]:
    """A row's numbers, those of groups as `norm/stem`."""
    flat = {name: value for name, value in row.items() if not isinstance(value, dict)}
    return flat | {f"{name}/{g}": v for name, by in row.items() if isinstance(by, dict) for g, v in by.items()}


@contextmanager
def _untracked() -> Iterator[Track]:
    yield lambda step, values: None


def _placed(execution: Execution, tree: Any) -> Any:
    return tree if execution.mesh is None else parallel.replicate(execution.mesh, jax.device_get(tree))


def _used(model: Model, groups: Groups) -> tuple[str, ...]:
    """The groups that have parameters."""
    return tuple(dict.fromkeys(jax.tree.leaves(trees.labels(model.params, groups))))
