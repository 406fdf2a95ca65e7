"""Linearized again after some real steps: train t of them, expand at w_t, and predict the rest of the same run.

The optimizer arrives with a velocity v_t, and decay may pull to the pretrained weights w0; neither lies in the
span of the new Jacobians; nor does the average w̄_t of the weights. So the weights of every group are, with w_t
the first and last of these directions,

    w_g = γ_g1 (w_t − w0)_g + γ_g2 v_t,g + γ_g3 (w̄_t − w0)_g + γ_g4 w0_g + J_gᵀ α_g

and the same optax chain, its velocity and its count taken over, goes on in (α, γ).
"""

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from linft.core import losses, trees
from linft.core.base import BatchNorm, Model, OneByOne, Run, Trajectory, recorded_steps
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.core.trees import Groups, Tree
from linft.predict import replay
from linft.predict.dual import of_logits, predictable
from linft.predict.replay import Network
from linft.predict.span import At, Coordinates, Directions, items, span, stacked
from linft.predict.tangent import in_mode, pushed, tangent
from linft.training import optimizer
from linft.training.batches import feed
from linft.training.evaluate import Measurement, evaluation, parts
from linft.training.step import Execution, State, begin_training

HERE, VELOCITY, AVERAGE, ORIGIN = (1, 0, 0, 1), (0, 1, 0, 0), (0, 0, 1, 1), (0, 0, 0, 1)
"""γ of w_t, of v_t, of w̄_t and of w0."""


def relinearized(
    model: Model,
    task: Task,
    *,
    after: int,
    record_every: int | None = None,
    batch_norm: BatchNorm = "frozen",
    **kernel: Any,
) -> Run:
    """Predict fine-tuning from the tangent kernel at the weights after some real steps: a Run.

    The first steps train the network by the recipe; what follows is the training of the network linearized
    where they end, with the momentum that they leave, by the recipe's next minibatches and rates. `after=0` is
    `dual`. With `model.with_head(init="probe", …)` it is the linear probe that is the first stage.

    Args:
      after: real steps, t.
      record_every: measure every so many steps; about a dozen times by default.
      batch_norm: as in `predict.tangent`; in training mode the real steps are told as `Trajectory.reestimated` is.
      **kernel: outputs, engine, batch_size, draws, progress of `predict.tangent`.

    Raises:
      LinftError: no kernel predicts the recipe, or it has no steps left after the real ones.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(10, 10)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=4)
      >>> run = relinearized(model, task, after=2)
      >>> run(linft.Recipe(learning_rate=0.01, batch_size=5, steps=4)).steps
      array([0, 1, 2, 3, 4])
    """
    model.check_classes(task)
    n = len(task.y_train)

    def run(recipe: Recipe) -> Trajectory:
        begin = time.perf_counter()
        predictable([recipe], batch_norm)
        steps = recipe.num_steps(n)
        if not 0 <= after < steps:
            raise LinftError(f"after is {after}; it must be 0 or more and below the recipe's {steps} steps")
        groups = optimizer.kernel_groups(model.layer_groups, recipe)
        settings = optimizer.settings(
            recipe, tuple(dict.fromkeys(jax.tree.leaves(trees.labels(model.params, groups)))), n
        )
        at = recorded_steps(steps, record_every)
        rows, state = _train(model, task, recipe, after, set(at[at < after].tolist()))
        if rows and losses.has_diverged(rows[-1]["train_loss"], rows[0]["train_loss"]):
            return replay.trajectory(at[: len(rows)], _curves(rows), time.perf_counter() - begin)
        there = in_mode(model.replace(params=state.params), task, batch_norm, kernel.get("progress"))
        arrays = _departed(model, there, task, state, groups, recipe, kernel)
        names = (tuple(arrays.tangent.groups), recipe.convention, after)
        found = replay.replay(
            _network, names, arrays, stacked([settings]), [recipe], recipe.batches(n), record_every, first=after
        )
        return _joined(at, rows, found[0].trajectory, time.perf_counter() - begin, f"linearized at step {after}")

    return OneByOne(run)


def _train(model: Model, task: Task, recipe: Recipe, steps: int, recorded: set[int]) -> tuple[list[Measurement], State]:
    """Rows at the recorded steps, the last one where the loss is beyond recovery; and the state after all steps."""
    execution = Execution()
    source = feed(model, task, False, execution, 0)
    of_both = evaluation(model, *parts(model, task, execution, source.held and source.held.images), execution)

    def measure(state: State) -> Measurement:
        row = of_both(recipe, state)
        return row | row.pop("reestimated", {})

    state, advance = begin_training(model, recipe, len(task.y_train))
    step = 0
    rows = [measure(state)] if recorded else []
    for batch in source.batches(recipe.order(len(task.y_train)), 0, sorted((recorded | {steps}) - {0})):
        state, _ = advance(state, batch, source.held)
        step += len(batch.index)
        if step in recorded:
            rows.append(measure(state))
            if losses.has_diverged(rows[-1]["train_loss"], rows[0]["train_loss"]):
                break
    return rows, state


def _departed(
    model: Model, there: Model, task: Task, state: State, groups: Groups, recipe: Recipe, kernel: dict[str, Any]
) -> Directions:
    """The network as it is linearized where the real steps end, and the directions that lead there."""
    found = tangent(there, task, groups=groups, **kernel)
    labels = trees.labels(model.params, groups)
    momentum = optax.tree_utils.tree_get(state.opt_state, "trace" if recipe.convention == "coupled" else "velocity")
    since = jax.jit(trees.subtract)  # one program, where one for each shape would take long
    directions = since(state.params, model.params), momentum, since(state.measured[0], model.params)

    def along(images: Any, from_weights: dict[str, Array]) -> dict[str, Array]:
        x = there.preprocess(images)
        moved, *others = (pushed(there, x, u, labels, found.groups) for u in directions)
        return {
            g: jnp.stack([moved[g], *(other[g] for other in others), from_weights[g] - moved[g]]) for g in found.groups
        }

    return Directions(
        tangent=found,
        pushed_train=along(task.x_train, found.weights_train),
        pushed_test=along(task.x_test, found.weights_test),
        gram=_gram((*directions, model.params), tuple(jax.tree.leaves(labels))),
    )


@partial(jax.jit, static_argnums=1)
def _gram(directions: tuple[Tree, ...], labels: tuple[str, ...]) -> dict[str, Array]:
    """Inner products of directions, by the group of each of their leaves."""
    found: dict[str, Array] = {}
    for label, *vectors in zip(labels, *map(jax.tree.leaves, directions), strict=True):
        flat = jnp.stack([vector.ravel() for vector in vectors])
        product = jnp.matmul(flat, flat.T, precision="highest")
        found[label] = found[label] + product if label in found else product
    return found


def _network(names: tuple[tuple[str, ...], str, int], arrays: Directions) -> Network:
    groups, convention, first = names
    reach = span(items({g: {g: 1.0} for g in groups}), arrays, ORIGIN, HERE)

    def along(gamma: tuple[int, ...]) -> At:
        return {g: Coordinates(x.alpha, jnp.array(gamma, x.gamma.dtype)) for g, x in reach.here.items()}

    def resume(state: Any) -> Any:
        momentum, count = ("trace", "count") if convention == "coupled" else ("velocity", "step")
        started = {momentum: along(VELOCITY), count: jnp.asarray(first, jnp.int32)}
        return optax.tree_utils.tree_set(state, **started)

    return of_logits(reach, arrays.tangent)._replace(resume=resume, average=along(AVERAGE))


def _curves(rows: list[Measurement]) -> dict[str, Any]:
    return jax.tree.map(lambda *values: np.array(values), *rows)


def _joined(at: np.ndarray, rows: list[Measurement], rest: Trajectory, seconds: float, note: str) -> Trajectory:
    """Real rows, then the predicted trajectory, its lengths by stage."""
    ahead = {name: getattr(rest, name) for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy")}
    ahead |= {name: _by_stage(getattr(rest, name)) for name in ("distance", "norm")}
    whole = jax.tree.map(lambda a, b: np.concatenate([a, b]), _curves(rows), ahead) if rows else ahead
    steps = np.concatenate([at[: len(rows)], rest.steps])
    return Trajectory(steps=steps, **whole, seconds=seconds, diverged_at=rest.diverged_at, note=note)


def _by_stage(lengths: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    squares: dict[str, Tree] = {}
    for g, length in lengths.items():
        squares[trees.stage(g)] = squares.get(trees.stage(g), 0) + length**2
    return {g: np.sqrt(square) for g, square in squares.items()}
