"""Closed form in the kernel's eigenbasis: any step at once, by powers of a small companion matrix.

For full batches and squared error the coordinates of each eigenvector follow a linear recursion in
z = (a, v_a, γ, v_γ, 1). Its powers come from repeated squaring, which stays exact where the
recursion's roots coincide (critical damping) and eigen-roots would fail. On the host, in float64.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from linft.core import losses, recipe_fields
from linft.core.base import BatchNorm, Model, OneByOne, Run, Tangent, Trajectory, recorded_steps
from linft.core.draws import refuse_draws
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.predict import eigen
from linft.predict.dual import as_tangent, instead
from linft.predict.eigen import Eigenbasis
from linft.predict.operator import apply, on_host, operator
from linft.predict.replay import trajectory
from linft.predict.span import Coordinates, from_pretrained, items, lengths
from linft.training import optimizer


def why_not(recipe: Recipe, n: int, batch_norm: BatchNorm = "frozen") -> str | None:
    """Why there is no closed form for this recipe on n training images, by a kernel of such batch norm, or None."""
    return recipe_fields.why_not(recipe, "closed form", n, batch_norm)


def spectral(
    model: Model | Tangent, task: Task | None = None, *, record_every: int | None = None, **kernel: Any
) -> Run:
    """Predict full-batch training with squared error in closed form: a Run.

    With eigenpairs (λ_k, u_k) of the weighted kernel and a_k = u_kᵀα, r_k = u_kᵀ(f0 − Y), q_k = u_kᵀ J w0:

        g_k = [λ_k a_k + r_k + (γ − 1) q_k] / N + λ a_k,   γ's gradient = λ (γ − γ̄)

    under heavy ball or Nesterov momentum. Decay is covered where all trained groups share rate and
    decay; without decay, any constant group rates are.

    Args:
      model, task, record_every, kernel: as for `dual`.

    Raises:
      LinftError: on calling it with a recipe that has no closed form, with the reason.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(10, 10)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=4)
      >>> recipe = linft.Recipe(learning_rate=1e-3, batch_size=None, steps=1000, loss="squared_error")
      >>> spectral(model, task)(recipe).steps[-1]
      np.int64(1000)
    """
    tangent = as_tangent(model, task, **kernel)
    refuse_draws(tangent.draws)
    n = len(tangent.labels_train)
    decompositions: dict[tuple, Eigenbasis] = {}  # by group weights: paid once, then every recipe is free

    def run(recipe: Recipe) -> Trajectory:
        begin = time.perf_counter()
        if reason := why_not(recipe, n, tangent.batch_norm):
            advice = instead(recipe, tangent.batch_norm, "kernel")
            raise LinftError(f"no closed form for this recipe: {reason}; {advice}")
        weights, decay = _weights(tangent, recipe, n)
        key = tuple(weights.items())
        if key not in decompositions:
            decompositions[key] = eigen.eigenbasis(on_host(operator(tangent.kernel_train, tangent, weights)))
        at = recorded_steps(recipe.num_steps(n), record_every)
        with np.errstate(over="ignore", invalid="ignore"):  # a diverging run leaves the range of the device's numbers
            values = _evaluate(tangent, recipe, weights, decay, decompositions[key], at)
        return trajectory(at, values, time.perf_counter() - begin)

    return OneByOne(run)


def _weights(tangent: Tangent, recipe: Recipe, n: int) -> tuple[dict[str, float], tuple[float, float]]:
    """Multipliers of the groups that train; their common decay, and what it pulls them towards."""
    numbers = optimizer.settings(recipe, tangent.groups, n)
    weights = {g: float(m) for g, m in numbers.multipliers.items()}
    kinds = {(weights[g], float(numbers.decays[g]), float(numbers.pulls[g])) for g in weights if weights[g] > 0}
    if any(decay > 0 for _, decay, _ in kinds) and len(kinds) > 1:
        raise LinftError(
            "no closed form for this recipe: groups differ in rate or decay while some decay; use predict.dual"
        )
    _, decay, pull = next(iter(kinds), (1.0, 0.0, 0.0))
    return weights, (decay, pull)


def _evaluate(
    tangent: Tangent,
    recipe: Recipe,
    weights: dict[str, float],
    decay_and_pull: tuple[float, float],
    basis: Eigenbasis,
    at: np.ndarray,
) -> dict[str, Any]:
    n, c = tangent.logits_train.shape
    trained = [g for g, weight in weights.items() if weight > 0]
    common = weights[trained[0]] if decay_and_pull[0] > 0 else 1.0  # with decay, the one multiplier belongs to the rate
    targets = losses.targets(tangent.labels_train, tangent.logits_train, recipe.label_smoothing)
    residual = _host(tangent.logits_train) - _host(targets)
    w_train, w_test = (
        np.sum([(weight > 0) * _host(by[g]) for g, weight in weights.items()], axis=0)
        for by in (tangent.weights_train, tangent.weights_test)
    )
    z = _powers(
        basis.values / common,
        basis.coordinates(residual),
        basis.coordinates(w_train),
        n,
        *decay_and_pull,
        recipe.learning_rate * common,
        recipe,
        at,
    )
    alphas = [basis.vector(of_step).reshape(n, c) for of_step in z[..., 0]]
    gammas = z[:, 0, 2]
    on_train, on_test = (
        on_host(operator(kernel, tangent, weights)) for kernel in (tangent.kernel_train, tangent.kernel_test)
    )
    result: dict[str, Any] = {k: [] for k in ("train_loss", "test_loss", "train_accuracy", "test_accuracy")}
    rows, reach = [], from_pretrained(tangent)
    alone = items({g: {g: weight / common} for g, weight in weights.items()})
    for alpha, gamma in zip(alphas, gammas, strict=True):
        for part, block, start, pulled, labels in (
            ("train", on_train, tangent.logits_train, w_train, tangent.labels_train),
            ("test", on_test, tangent.logits_test, w_test, tangent.labels_test),
        ):
            logits = jnp.asarray(_host(start) + apply(block, alpha) / common + (gamma - 1) * pulled)
            result[f"{part}_loss"].append(losses.mean_loss(recipe.loss, logits, labels))
            result[f"{part}_accuracy"].append(losses.accuracy(logits, labels))
        where = {g: Coordinates(jnp.asarray(alpha), jnp.array([gamma if w > 0 else 1.0])) for g, w in weights.items()}
        rows.append(lengths(alone, reach, (1,), (1,), where))
    return {k: np.asarray(v) for k, v in result.items()} | jax.tree.map(lambda *v: np.array(v), *rows)


def _host(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64)


def _powers(
    values: Float[np.ndarray, "k"],
    residual: Float[np.ndarray, "k"],
    from_weights: Float[np.ndarray, "k"],
    n: int,
    decay: float,
    pull: float,
    rate: float,
    recipe: Recipe,
    at: np.ndarray,
) -> Float[np.ndarray, "t k 5"]:
    """z = (a, v_a, γ, v_γ, 1) of every eigenvector at the steps asked for."""
    m, zero = recipe.momentum, np.zeros_like(values)

    def one_step(z: np.ndarray) -> np.ndarray:
        a, v_a, gamma, v_gamma, one = np.moveaxis(z, -1, 0)
        g_a = (values * a + residual * one + (gamma - one) * from_weights) / n + decay * a
        g_gamma = decay * (gamma - pull * one)
        v_a, v_gamma = m * v_a + g_a, m * v_gamma + g_gamma
        u_a, u_gamma = (g_a + m * v_a, g_gamma + m * v_gamma) if recipe.nesterov else (v_a, v_gamma)
        return np.stack([a - rate * u_a, v_a, gamma - rate * u_gamma, v_gamma, one + zero], axis=-1)

    basis = np.broadcast_to(np.eye(5)[:, None, :], (5, len(values), 5))
    matrix = np.stack([one_step(e) for e in basis], axis=-1)  # columns: where each coordinate goes
    squares = [matrix]
    with np.errstate(over="ignore", invalid="ignore"):  # a diverging run ends in inf, and is reported as such
        while 2 ** len(squares) <= at.max(initial=0):
            squares.append(squares[-1] @ squares[-1])
        start = np.stack([zero, zero, zero + 1, zero, zero + 1], axis=-1)
        states = []
        for t in at.tolist():
            z = start
            for j, square in enumerate(squares):
                if t >> j & 1:
                    z = np.einsum("kij,kj->ki", square, z)
            states.append(z)
    return np.stack(states)
