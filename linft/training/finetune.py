"""The real run: train a model's weights on a task by a recipe, with optax."""

import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import jax
import numpy as np

from linft.core import parallel
from linft.core.base import Curves, Model, OneByOne, Run, Trajectory, recorded_steps
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.data.augment import AUGMENTATIONS
from linft.models import batch_norm
from linft.runtime import signals
from linft.runtime.checkpoints import Checkpoints
from linft.training import delta
from linft.training.batches import Feed, feed
from linft.training.evaluate import evaluation, parts, refuse_start
from linft.training.history import Position, Tracking, recording
from linft.training.step import Execution, Penalty, State, begin_training

LOGS = 100  # at most so many times a run says how it goes

OnStep = Callable[[int, int, float], None]
"""Called now and then with (step, steps, loss of the last minibatches)."""

Visit = Callable[[int, Model], None]
"""Called with (step, the network there) along a run."""


def finetune(
    model: Model,
    task: Task,
    *,
    record_every: int | None = None,
    progress: OnStep | None = None,
    tracking: Tracking | None = None,
    execution: Execution = Execution(),
    workers: int = 0,
    checkpoints: Checkpoints | None = None,
    until: int | None = None,
    visit: Visit | None = None,
) -> Run:
    """Train the model's weights on the task: a Run.

    With `batch_norm="frozen"` the network is in evaluation mode throughout; with "train" the batch's
    statistics are used and their running averages kept (and dropout is on), and the recorded values
    are those of evaluation mode, with the running averages and (`Trajectory.reestimated`) with the statistics
    of the training images at the weights of that step; "reestimated" takes the statistics of the task's training images
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
      visit: called with the network at every recorded step but the first.

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
    measure = evaluation(model, train, test, execution)

    @cache
    def begun(batch_norm_mode: str) -> Model:
        return batch_norm.reestimated(model, task.x_train) if batch_norm_mode == "reestimated" else model

    @cache
    def penalty(batch_norm_mode: str) -> Penalty:
        return delta.penalty(begun(batch_norm_mode), delta.attention(begun(batch_norm_mode), task))

    def trained(state: State) -> Model:
        params, batch_stats = state.measured if execution.mesh is None else jax.device_get(state.measured)
        return model.trained(params, batch_stats)

    def run(recipe: Recipe) -> Trajectory:
        order, rates = recipe.order(n), recipe.rates(n)
        execution.check(order.batch_size)
        added = penalty(recipe.batch_norm) if recipe.delta > 0 else None
        first, advance = begin_training(begun(recipe.batch_norm), recipe, n, execution, added)
        source = feed_for(AUGMENTATIONS[recipe.augmentation].canvas)
        end = order.steps if until is None else min(until, order.steps)
        recorded = {step for step in recorded_steps(order.steps, record_every).tolist() if step < end} | {end}
        stops = recorded | set(range(0, end, max(1, order.steps // LOGS)))
        diverged_at = None

        def segments(at: Position) -> Iterator[Position]:
            """Where the run is at every stop, and when it is asked to leave."""
            step, state, before = at
            losses: list[Any] = [before]
            for batch in source.batches(order, step, sorted(stop for stop in stops if stop > step)):
                state, of_batch = advance(state, batch, source.held)
                step, losses = step + len(batch.index), [*losses, of_batch]
                if step in stops or (requested() and jax.process_count() == 1):
                    losses = [np.concatenate([np.asarray(x, float) for x in losses])]
                    yield Position(step, state, losses[0])
                    losses = []

        with (
            signals.deferred() as requested,
            recording(first, partial(measure, recipe), tracking, checkpoints) as (kept, begun_at),
        ):
            at = begun_at
            if not kept.rows and not kept.record(at):
                refuse_start(model, at.state, train, execution)
            clock = time.perf_counter()
            for at in segments(begun_at):
                step, losses = at.step, at.losses
                if not np.isfinite(losses).all():
                    diverged_at = step - len(losses) + 1 + int(np.argmin(np.isfinite(losses)))
                    break
                if step not in stops:
                    kept.leave(at)
                loss, pace = float(losses.mean()), len(losses) * order.batch_size / (time.perf_counter() - clock)
                kept.track(step, {"loss": loss, "learning_rate": float(rates[step - 1]), "images_per_second": pace})
                if progress is not None:
                    progress(step, end, loss)
                if step in recorded and not kept.record(at):
                    diverged_at = step
                    break
                if step in recorded and visit is not None:
                    visit(step, trained(at.state))
                if step < end and parallel.any_host(requested()):
                    kept.leave(at._replace(losses=np.zeros(0)))
                clock = time.perf_counter()
        best = None if checkpoints is None else checkpoints.best(at.state)
        curves = kept.curves()
        own = curves.pop("reestimated", None)
        return Trajectory(
            **curves,
            reestimated=None if own is None else Curves(**own),
            seconds=kept.seconds,
            diverged_at=diverged_at,
            model=trained(at.state),
            best=None if best is None else trained(best[1]),
        )

    return OneByOne(run)
