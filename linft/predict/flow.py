"""Gradient flow on the linearized network, by `neural_tangents.predict`: the limit of small learning rates."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.ode import odeint
from jaxtyping import Array

from linft.core import losses, recipe_fields
from linft.core.base import BatchNorm, Model, OneByOne, Outputs, Run, Tangent, Trajectory, recorded_steps
from linft.core.draws import refuse_draws
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.ntk import neural_tangents_compat
from linft.predict.dual import as_tangent, instead
from linft.predict.operator import apply, operator
from linft.predict.replay import trajectory
from linft.training import optimizer


def why_not(recipe: Recipe, outputs: Outputs = "full", batch_norm: BatchNorm = "frozen") -> str | None:
    """Why gradient flow does not predict this recipe here from a kernel of such outputs and batch norm, or None."""
    reason = recipe_fields.why_not(recipe, "flow", batch_norm=batch_norm)
    return reason or (neural_tangents_compat.why_not() if outputs == "full" else None)


def gradient_flow(
    model: Model | Tangent, task: Task | None = None, *, record_every: int | None = None, **kernel: Any
) -> Run:
    """Predict training in continuous time: a Run.

        df/dt = −Θ ∂L/∂f on all training images, at times t = Σ_s η_s / (1 − m)

    Closed form for squared error (Deshpande and others 2021, proposition 1), an ODE for
    cross-entropy, both from neural-tangents; an ODE on products with the kernel where that is a trace or
    pseudo one, which is never written out for every pair of logits. Minibatches and momentum enter
    only through the time. Distances moved are not given by it.

    Args:
      model, task, record_every, kernel: as for `dual`.

    Raises:
      LinftError: neural-tangents is not installed and the kernel is a full one; when it is run, also a
        recipe that it does not predict.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(10, 10)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=4)
      >>> run = gradient_flow(model, task)
      >>> run(linft.Recipe(learning_rate=1e-3, steps=4, loss="squared_error")).steps
      array([0, 1, 2, 3, 4])
    """
    outputs = model.kernel_train.outputs if isinstance(model, Tangent) else kernel.get("outputs", "full")
    if outputs == "full":
        neural_tangents_compat.load()  # says how to get it before a kernel is computed
    tangent = as_tangent(model, task, **kernel)
    refuse_draws(tangent.draws)
    n = len(tangent.labels_train)

    def run(recipe: Recipe) -> Trajectory:
        begin = time.perf_counter()
        if reason := why_not(recipe, outputs, tangent.batch_norm):
            advice = instead(recipe, tangent.batch_norm, "kernel")
            raise LinftError(f"gradient flow does not predict this recipe: {reason}; {advice}")
        weights = {g: float(m) for g, m in optimizer.settings(recipe, tangent.groups, n).multipliers.items()}
        at = recorded_steps(recipe.num_steps(n), record_every)
        times = np.concatenate([[0.0], np.cumsum(recipe.rates(n))])[at] / (1 - recipe.momentum)
        of_full = _closed_form if recipe.loss == "squared_error" else _ode
        solve = of_full if tangent.kernel_train.outputs == "full" else _ode_of_operator
        on_train, on_test = solve(tangent, weights, recipe, jnp.asarray(times, tangent.logits_train.dtype))
        values: dict[str, Any] = {"distance": {}, "norm": {}}
        for part, logits, labels in (("train", on_train, tangent.labels_train), ("test", on_test, tangent.labels_test)):
            values[f"{part}_loss"] = np.array([losses.mean_loss(recipe.loss, f, labels) for f in logits])
            values[f"{part}_accuracy"] = np.array([losses.accuracy(f, labels) for f in logits])
        return trajectory(at, values, time.perf_counter() - begin)

    return OneByOne(run)


def _kernels(tangent: Tangent, weights: dict[str, float]) -> tuple[Array, Array]:
    """Full train and test kernels in the package's layout [n m c c]."""
    return tuple(  # pyright: ignore
        operator(kernel, tangent, weights)[0][0].swapaxes(1, 2)
        for kernel in (tangent.kernel_train, tangent.kernel_test)
    )


def _targets(tangent: Tangent, recipe: Recipe) -> Array:
    return losses.targets(tangent.labels_train, tangent.logits_train, recipe.label_smoothing)


def _closed_form(tangent: Tangent, weights: dict[str, float], recipe: Recipe, times: Array) -> tuple[Array, Array]:
    train, test = _kernels(tangent, weights)
    nt = neural_tangents_compat.load()
    predict = nt.predict.gradient_descent_mse(train, _targets(tangent, recipe), trace_axes=())
    # The package's loss is a mean over examples and classes, ours over examples: its time runs c times slower.
    return predict(times * tangent.logits_train.shape[1], tangent.logits_train, tangent.logits_test, test)


def _ode(tangent: Tangent, weights: dict[str, float], recipe: Recipe, times: Array) -> tuple[Array, Array]:
    train, test = _kernels(tangent, weights)
    nt = neural_tangents_compat.load()
    labels = tangent.labels_train

    def loss(logits: Array, targets: Array) -> Array:
        del targets  # labels are enough
        return losses.mean_loss(recipe.loss, logits, labels, recipe.label_smoothing)

    predict: Callable = nt.predict.gradient_descent(loss, train, _targets(tangent, recipe), trace_axes=())
    return predict(times, tangent.logits_train, tangent.logits_test, test)


def _ode_of_operator(tangent: Tangent, weights: dict[str, float], recipe: Recipe, times: Array) -> tuple[Array, Array]:
    """By the solver that the package has too, to a tolerance that the arithmetic can hold."""
    train, test = (operator(kernel, tangent, weights) for kernel in (tangent.kernel_train, tangent.kernel_test))

    @jax.jit
    def velocity(logits: tuple[Array, Array], t: Array) -> tuple[Array, Array]:
        del t
        downhill = -losses.gradient(recipe.loss, logits[0], tangent.labels_train, recipe.label_smoothing)
        return apply(train, downhill), apply(test, downhill)  # pyright: ignore

    tolerance = float(jnp.finfo(times.dtype).eps) ** 0.6
    with jax.default_matmul_precision("highest"):
        return odeint(velocity, (tangent.logits_train, tangent.logits_test), times, rtol=tolerance, atol=tolerance)
