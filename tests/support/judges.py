"""What a run must come to, in NumPy: the steps of SGD or Adam in a network's weights, or a flow in its outputs."""

import itertools
from collections.abc import Callable, Iterable, Iterator
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


Near = Callable[[list[np.ndarray]], Network]
"""The network near a path of weights."""


def moving(near: Near, of: Explicit, recipe: Recipe, anchors: int) -> Network:
    """The network near the path that it predicts itself."""
    path, steps = [of.w0], 0
    while len(path) < anchors:
        followed = list(weights(near(path), of, recipe))
        far = np.linalg.norm(np.array([*averaged(recipe, followed)]) - of.w0, axis=1)
        wanted = 0.5 ** (anchors - 1 - len(path)) * far[-1]
        reached = far >= (min(wanted, 1.5 * far[steps]) if steps else wanted)
        steps = int(np.argmax(reached & (np.arange(len(far)) > steps)))
        path.append(followed[steps])
    return near(path)


Choice = Callable[[np.ndarray, list[np.ndarray]], int]
"""The segment of a path that weights are taken to be on."""


def where(w: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """s on a segment."""
    return (w - a) @ (b - a) / ((b - a) @ (b - a))


def in_turn(w: np.ndarray, path: list[np.ndarray]) -> int:
    """The first that is not passed, or the last."""
    ahead = [s for s, ends in enumerate(itertools.pairwise(path)) if where(w, *ends) < 1]
    return min(ahead, default=len(path) - 2)


def nearest(w: np.ndarray, path: list[np.ndarray]) -> int:
    """That of the nearest point."""
    points = [a + np.clip(where(w, a, b), 0, 1) * (b - a) for a, b in itertools.pairwise(path)]
    far = [np.linalg.norm(w - point) for point in points]
    return max(i for i, distance in enumerate(far) if distance <= min(far) * (1 + 1e-12))


def along(network: Network, path: list[np.ndarray], choose: Choice = in_turn) -> Network:
    """Cubic along every segment, linear about it and beyond the last."""
    known = [(a, network.logits(a), network.jacobian(a)) for a in path]

    def near(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if len(path) == 1:
            a, f, j = known[0]
            return f + j @ (w - a), j
        place = choose(w, path)
        (a, f, j), (b, g, k) = known[place : place + 2]
        d, s = b - a, where(w, a, b)
        moves, s = 0 <= s < 1, np.clip(s, 0, 1)
        off = w - a - s * d
        value = (1 + 2 * s) * (1 - s) ** 2 * f + s * (1 - s) ** 2 * (j @ d)
        value += s**2 * (3 - 2 * s) * g - s**2 * (1 - s) * (k @ d)
        slope = 6 * s * (1 - s) * (g - f) + (1 - 4 * s + 3 * s**2) * (j @ d) + (3 * s**2 - 2 * s) * (k @ d)
        of_s = slope + (k - j) @ off - ((1 - s) * j + s * k) @ d
        here = (1 - s) * j + s * k
        return value + here @ off, here + of_s[..., None] * d / (d @ d) if moves else here

    return Network(lambda w: near(w)[0], lambda w: near(w)[1])


def under_head(model: linft.Model, task: linft.Task, choose: Choice = in_turn) -> Near:
    """The features near a path of what is below the head, the head exact."""
    x, (w0, unravel) = images(model, task), ravel_pytree(model.params)
    features = _compiled(lambda w: model.features(unravel(w), x))
    marked = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.full(leaf.shape, trees.path_of(path).startswith(model.head + "/")), model.params
    )
    is_head = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(marked)])

    def dense(w: jax.Array, phi: jax.Array) -> jax.Array:
        head = trees.get(unravel(w), model.head)
        return phi @ head["kernel"] + head["bias"][None]

    of_head = jax.jit(jax.jacobian(dense))

    def near(path: list[np.ndarray]) -> Network:
        def below(w: np.ndarray) -> np.ndarray:
            return np.where(is_head, w0, w)

        moved = along(features, [below(w) for w in path], choose)

        def jacobian(w: np.ndarray) -> np.ndarray:
            kernel = np.asarray(trees.get(unravel(w), model.head)["kernel"])
            return np.asarray(of_head(w, moved.logits(below(w)))) + np.einsum(
                "ndp,dc->ncp", moved.jacobian(below(w)), kernel
            )

        return Network(lambda w: np.asarray(dense(w, moved.logits(below(w)))), jacobian)

    return near


def sgd(network: Network, of: Explicit, recipe: Recipe, record: np.ndarray) -> dict[str, np.ndarray]:
    """Curves and lengths at the recorded steps; those before the loss is beyond recovery."""
    groups, rows = dict.fromkeys(of.groups), []
    for step, w in enumerate(averaged(recipe, weights(network, of, recipe))):
        if step in record:
            row = _measured(recipe, network.logits(w), of)
            if rows and losses.has_diverged(row[0], rows[0][0]):
                break
            rows.append([*row, *(np.linalg.norm(v[of.groups == g]) for v in (w - of.w0, w) for g in groups)])
    names = [f"{kind} {g}" for kind in ("distance", "norm") for g in groups]
    return dict(zip((*CURVES, *names), np.transpose(rows), strict=True))


def weights(network: Network, of: Explicit, recipe: Recipe) -> Iterator[np.ndarray]:
    """Before every step, and after the last."""
    _, _, w0, groups, is_vector, labels, n = of
    targets = _smoothed(recipe, of.f0.shape[1], labels)
    squared = recipe.loss == "squared_error"
    multiplier = np.array([recipe.multiplier(g) for g in groups])
    decay, pull = np.array([recipe.decay(g) for g in groups]).T
    decay, towards = decay * (recipe.decay_vectors | ~is_vector), pull * w0
    apart, ahead = recipe.convention == "decoupled", recipe.momentum * recipe.nesterov
    w, velocity, second = w0.copy(), 0 * w0, 0 * w0
    yield w
    for step, (batch, rate) in enumerate(zip(recipe.batches(n), recipe.rates(n), strict=True), 1):
        residual = ((lambda f: f if squared else _softmax(f))(network.logits(w)) - targets)[batch] / len(batch)
        gradient = np.einsum("bc,bcp->p", residual, network.jacobian(w)[batch])
        if recipe.clip_norm is not None:
            gradient *= min(1, recipe.clip_norm / np.linalg.norm(gradient[multiplier > 0]))
        if recipe.optimizer == "adam":
            within, beside = (0, decay) if apart else (decay, 0)
            gradient += within * (w - towards)
            velocity = recipe.momentum * velocity + (1 - recipe.momentum) * gradient
            second = 0.999 * second + 0.001 * gradient**2
            mean, root = velocity / (1 - recipe.momentum**step), np.sqrt(second / (1 - 0.999**step))
            w = w - rate * multiplier * (mean / (root + 1e-8) + beside * (w - towards))
        elif apart:  # w is where the gradient is taken, ahead of the paper's weights
            behind = w + ahead * velocity
            velocity = recipe.momentum * velocity + rate * multiplier * gradient
            w = behind - velocity - rate * multiplier * decay * (behind - towards) - ahead * velocity
        else:
            gradient += decay * (w - towards)
            velocity = recipe.momentum * velocity + gradient
            update = gradient + recipe.momentum * velocity if recipe.nesterov else velocity
            w = w - rate * multiplier * update
        yield w


def averaged(recipe: Recipe, path: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Where a run is measured."""
    return itertools.accumulate(path, lambda mean, w: recipe.ema * mean + (1 - recipe.ema) * w)


def flow(of: Explicit, recipe: Recipe, record: np.ndarray) -> dict[str, np.ndarray]:
    """df/dt = −Θ ∂L/∂f of the linearized network, at the times of the recorded steps."""
    n, (_, c) = of.n, of.f0.shape
    scaled = of.jacobian * np.array([recipe.multiplier(g) for g in of.groups])
    theta = np.einsum("icp,jdp->icjd", scaled, of.jacobian[:n]).reshape(len(of.f0) * c, n * c)
    targets = _smoothed(recipe, c, of.labels[:n])

    def velocity(t: float, f: np.ndarray) -> np.ndarray:
        on_train = f.reshape(-1, c)[:n]
        residual = (on_train if recipe.loss == "squared_error" else _softmax(on_train)) - targets
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


def _smoothed(recipe: Recipe, classes: int, labels: np.ndarray) -> np.ndarray:
    return (1 - recipe.label_smoothing) * np.eye(classes)[labels] + recipe.label_smoothing / classes


def _softmax(f: np.ndarray) -> np.ndarray:
    p = np.exp(f)
    return p / p.sum(1, keepdims=True)
