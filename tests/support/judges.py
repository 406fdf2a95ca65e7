"""What a run must come to, written out in NumPy: the steps of SGD in a network's weights, or a flow in its outputs."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from replayed import CURVES
from scipy.integrate import solve_ivp

import linft
from linft.core import losses, trees
from linft.core.recipe import Recipe


class Explicit(NamedTuple):
    """The linearized network as plain arrays: f = f0 + J (w − w0)."""

    f0: np.ndarray
    """[n c], training images first."""
    jacobian: np.ndarray
    """[n c p]."""
    w0: np.ndarray
    """[p]."""
    groups: np.ndarray
    """Layer group of every parameter, [p]."""
    is_vector: np.ndarray
    """Whether it belongs to a bias or a norm, [p]."""
    labels: np.ndarray
    """[n], training images first."""
    n: int
    """Number of training images."""


class Network(NamedTuple):
    """What is trained, as functions of all weights in one vector."""

    logits: Callable[[np.ndarray], np.ndarray]
    """[n c]."""
    jacobian: Callable[[np.ndarray], np.ndarray]
    """[n c p]."""


def images(model: linft.Model, task: linft.Task) -> np.ndarray:
    """Training images first."""
    return model.preprocess(np.concatenate([task.x_train, task.x_test])).astype(model.dtype)


def explicit(model: linft.Model, task: linft.Task) -> Explicit:
    x = images(model, task)
    f0, jacobian = jax.jit(lambda p: (model.apply(p, x), jax.jacobian(lambda q: model.apply(q, x))(p)))(model.params)
    leaves = [
        (trees.path_of(path), np.asarray(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(model.params)
    ]
    return Explicit(
        f0=np.asarray(f0),
        jacobian=np.concatenate([np.reshape(j, (*f0.shape, -1)) for j in jax.tree.leaves(jacobian)], axis=-1),
        w0=np.concatenate([leaf.ravel() for _, leaf in leaves]),
        groups=np.concatenate([np.repeat(path.split("/")[0], leaf.size) for path, leaf in leaves]),
        is_vector=np.concatenate([np.repeat(leaf.ndim == 1, leaf.size) for _, leaf in leaves]),
        labels=np.concatenate([task.y_train, task.y_test]),
        n=len(task.y_train),
    )


def as_it_is(model: linft.Model, task: linft.Task) -> Network:
    """The network itself."""
    x, (_, unravel) = images(model, task), ravel_pytree(model.params)
    return _compiled(lambda w: model.apply(unravel(w), x))


def linear(of: Explicit) -> Network:
    """To first order."""
    return Network(lambda w: of.f0 + of.jacobian @ (w - of.w0), lambda w: of.jacobian)


def linear_features(model: linft.Model, task: linft.Task) -> Network:
    """The features to first order, the head exact."""
    x, (w0, unravel) = images(model, task), ravel_pytree(model.params)

    def features(w: jax.Array) -> jax.Array:
        return model.features(unravel(w), x)

    start, jacobian = jax.jit(lambda w: (features(w), jax.jacobian(features)(w)))(w0)

    def logits(w: jax.Array) -> jax.Array:
        head = trees.get(unravel(w), model.head)
        return (start + jacobian @ (w - w0)) @ head["kernel"] + head["bias"][None]

    return _compiled(logits)


def _compiled(logits: Callable[[jax.Array], jax.Array]) -> Network:
    values, jacobian = jax.jit(logits), jax.jit(jax.jacobian(logits))
    return Network(lambda w: np.asarray(values(w)), lambda w: np.asarray(jacobian(w)))


def sgd(network: Network, of: Explicit, recipe: Recipe, record: np.ndarray) -> dict[str, np.ndarray]:
    """Curves and lengths at the recorded steps; those before the loss is beyond recovery."""
    _, _, w0, groups, is_vector, labels, n = of
    one_hot = np.eye(of.f0.shape[1])[labels]
    squared = recipe.loss == "squared_error"
    multiplier = np.array([recipe.multiplier(g) for g in groups])
    decay, pull = np.array([recipe.decay(g) for g in groups]).T
    decay, towards = decay * (recipe.decay_vectors | ~is_vector), pull * w0
    apart, ahead = recipe.convention == "decoupled", recipe.momentum * recipe.nesterov
    w, velocity, rows, batches = w0.copy(), 0 * w0, [], recipe.batches(n)
    names = [f"{kind} {g}" for kind in ("distance", "norm") for g in dict.fromkeys(groups)]
    for step, rate in enumerate([*recipe.rates(n), None]):
        f = network.logits(w)
        if step in record:
            row = _measured(recipe, f, of)
            if rows and losses.has_diverged(row[0], rows[0][0]):
                break
            lengths = [np.linalg.norm(of[groups == g]) for of in (w - w0, w) for g in dict.fromkeys(groups)]
            rows.append([*row, *lengths])
        if rate is None:
            break
        batch = batches[step]
        residual = ((f if squared else _softmax(f)) - one_hot)[batch] / len(batch)
        gradient = np.einsum("bc,bcp->p", residual, network.jacobian(w)[batch])
        if apart:  # w is where the gradient is taken, ahead of the paper's weights
            behind = w + ahead * velocity
            velocity = recipe.momentum * velocity + rate * multiplier * gradient
            w = behind - velocity - rate * multiplier * decay * (behind - towards) - ahead * velocity
            continue
        gradient += decay * (w - towards)
        velocity = recipe.momentum * velocity + gradient
        update = gradient + recipe.momentum * velocity if recipe.nesterov else velocity
        w = w - rate * multiplier * update
    return dict(zip((*CURVES, *names), np.transpose(rows), strict=True))


def flow(of: Explicit, recipe: Recipe, record: np.ndarray) -> dict[str, np.ndarray]:
    """df/dt = −Θ ∂L/∂f of the linearized network, at the times of the recorded steps."""
    n, (_, c) = of.n, of.f0.shape
    scaled = of.jacobian * np.array([recipe.multiplier(g) for g in of.groups])
    theta = np.einsum("icp,jdp->icjd", scaled, of.jacobian[:n]).reshape(len(of.f0) * c, n * c)
    one_hot = np.eye(c)[of.labels[:n]]

    def velocity(t: float, f: np.ndarray) -> np.ndarray:
        on_train = f.reshape(-1, c)[:n]
        residual = (on_train if recipe.loss == "squared_error" else _softmax(on_train)) - one_hot
        return -theta @ residual.ravel() / n

    times = np.concatenate([[0.0], np.cumsum(recipe.rates(n))])[record] / (1 - recipe.momentum)
    solved = solve_ivp(velocity, (0.0, times[-1]), of.f0.ravel(), t_eval=times, rtol=1e-9, atol=1e-9)
    rows = [_measured(recipe, f.reshape(-1, c), of) for f in solved.y.T]
    return dict(zip(CURVES, np.transpose(rows), strict=True))


def _measured(recipe: Recipe, f: np.ndarray, of: Explicit) -> list[float]:
    one_hot = np.eye(f.shape[1])[of.labels]
    each = (
        ((f - one_hot) ** 2).sum(1) / 2 if recipe.loss == "squared_error" else -np.log((_softmax(f) * one_hot).sum(1))
    )
    right = f.argmax(1) == of.labels
    return [each[: of.n].mean(), each[of.n :].mean(), right[: of.n].mean(), right[of.n :].mean()]


def _softmax(f: np.ndarray) -> np.ndarray:
    p = np.exp(f)
    return p / p.sum(1, keepdims=True)
