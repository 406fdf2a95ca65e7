"""A network in training mode as a function of one image at a time: batch norm's statistics follow the weights.

In training mode an output depends on the other images through batch norm's statistics alone: with s(w) those
of a fixed set of images, it is evaluation mode at s(w). To first order s(w) = s0 + D (w − w0), so that

    f(w, x) = f_eval(w, s0 + U U⁺ D (w − w0), x)

has the value and the Jacobian of training mode at w0, image by image, for training and for other images:
∂f/∂w = ∂f_eval/∂w + (∂f_eval/∂s) D. Of D = ∂s/∂w, U keeps the directions that the features feel most.
"""

import logging
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from linft.core import trees
from linft.core.base import Model
from linft.core.constants import constants_of, statistics_of
from linft.core.errors import LinftError
from linft.core.forward_pass import Forward
from linft.core.preprocessing import Images
from linft.core.trees import Tree
from linft.models.batch_norm import TrainingMode, momentum_and_statistics, training_mode, without_dropout
from linft.runtime.progress import Count

log = logging.getLogger("linft")

IMAGES = 128
"""Whose statistics are differentiated, at most."""
RANK = 256
"""Directions of the statistics that are kept."""
FELT = 32
"""Images on which it is measured how the features depend on the statistics."""
PROBES = 8
"""Random directions of the weights that show how far each statistic moves."""
AT_ONCE = 16
"""Directions in one backward pass."""
LEADING = 64
"""Directions that are differentiated on all images: what all outputs have in common is to cancel exactly."""
TURNS, PART = 4, 16
"""The others are differentiated on a quarter of the images, 16 at least, in every pass on another one: what the
choice of images does averages out so. Predicted curves change by less than 1 % by it (benchmarks/training_mode.py)."""


@dataclass(frozen=True)
class Coupled:
    """`forward` of a model in training mode; `batch_stats` holds s0, w0, U⁺ D and U, and its constants."""

    base: Forward

    def __call__(self, params: Tree, batch_stats: Tree, x: Array) -> tuple[Array, Array]:
        moved = jnp.zeros((), trees.precision(params))
        for path, rows in batch_stats["rows"].items():
            moved = moved + jnp.tensordot(rows, trees.get(params, path) - batch_stats["start"][path], rows.ndim - 1)
        return self.at(params, batch_stats, x, moved)

    def at(self, params: Tree, batch_stats: Tree, x: Array, moved: Float[Array, "r"]) -> tuple[Array, Array]:
        """Where the statistics are at s0 + U · moved."""
        statistics = jax.tree.map(
            lambda s, u: s + jnp.tensordot(moved, u, 1), batch_stats["statistics"], batch_stats["directions"]
        )
        return self.base(params, {**statistics, **constants_of(batch_stats)}, x)


def coupling(forward: Any, params: Tree, batch_stats: Tree, x: Array, cotangents: Array) -> Float[Array, "b k r"]:
    """How every example's outputs along E [k c] depend on the statistics: E ∂f/∂s U."""
    zero = jnp.zeros(next(iter(batch_stats["rows"].values())).shape[0], x.dtype)

    def of_one(image: Array) -> Array:
        _, pull = jax.vjp(lambda moved: forward.at(params, batch_stats, image[None], moved)[0][0], zero)
        return jax.vmap(lambda e: pull(e)[0])(cotangents)

    return jax.vmap(of_one)(x)


def in_training_mode(
    model: Model, images: Images, rank: int = RANK, leading: int = LEADING, progress: Count | None = None
) -> Model:
    """The model with batch norm in training mode, to first order in its statistics: a Model, image by image.

    At the model's own weights value and Jacobian are those of training mode with the statistics of these images
    in one batch; elsewhere its statistics are linear in the weights. Dropout is off. Take as many images as a
    minibatch has, or more: 128 at most count, evenly chosen.

    Args:
      images: uint8, as they come, such as the training images.
      rank: directions of the statistics that are kept; all of them, on all images, where there are no more.
      leading: of these, those that cost one backward pass over all images each; the others one over a part of them.
      progress: called with (directions done, directions in all).

    Raises:
      LinftError: a model without training mode or batch norm.

    Example:
      >>> import jax, jax.numpy as jnp, linft
      >>> task = linft.load_task("digits").subset(12, 10)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=2)
      >>> view = in_training_mode(model, task.x_train)
      >>> x = model.preprocess(task.x_train)
      >>> expected, _ = model.forward_train(model.params, model.batch_stats, x, jax.random.key(0))
      >>> bool(jnp.allclose(view.apply(model.params, x), expected, atol=1e-4))
      True
    """
    train = training_mode(model)
    if not model.has_statistics:
        raise LinftError(f"{model.name} has no batch norm, so training mode is evaluation mode")
    if rank < 1:
        raise LinftError(f"rank is {rank}; it must be 1 or more")
    chosen = _chosen(model, images)
    momentum, statistics = momentum_and_statistics(model, chosen)
    x = model.preprocess(chosen)
    paths = (trees.path_of(path) for path, _ in jax.tree.leaves_with_path(model.params))
    below = frozenset(path for path in paths if not path.startswith(model.head + "/"))
    functions = _compiled(train, model.forward)
    size = sum(leaf.size for leaf in jax.tree.leaves(statistics))
    with jax.default_matmul_precision("highest"):
        if rank >= size:
            directions = towards = np.eye(size).astype(model.dtype)
        else:
            directions, towards = _felt(functions, model, momentum, statistics, x, below, rank)
        pull = partial(functions.pull, below, model.params, momentum, model.batch_stats)
        exact, parts = len(towards) if rank >= size else leading, []
        for i in range(0, len(towards), AT_ONCE):
            seen = x if i < exact else _turn(x, i // AT_ONCE)
            parts.append(jax.device_get(pull(seen, jnp.asarray(towards[i : i + AT_ONCE]))))
            if progress is not None:
                progress(min(i + AT_ONCE, len(towards)), len(towards))
    start, _ = trees.chosen(model.params, below)
    rows = {path: jnp.asarray(np.concatenate([part[path] for part in parts])) for path in start}
    _, unravel = ravel_pytree(statistics)
    along = jax.vmap(unravel)(jnp.asarray(directions))
    held = {"statistics": statistics, "start": start, "rows": rows, "directions": along}
    held |= constants_of(model.batch_stats)
    return model.replace(
        name=f"{model.name} (training mode)",
        forward=Coupled(model.forward),
        forward_train=None,
        batch_stats=held,
        module=None,
        architecture=None,
        class_means=None,
    )


def with_statistics(model: Model, images: Images) -> Model:
    """The model with the statistics that `in_training_mode` begins with: the value without the derivative."""
    _, statistics = momentum_and_statistics(model, _chosen(model, images))
    found = jax.tree.map(jnp.asarray, statistics)
    return model.replace(batch_stats={**found, **constants_of(model.batch_stats)})


def _chosen(model: Model, images: Images) -> np.ndarray:
    resized = np.asarray(model.preprocessing.resize(images))
    return resized[np.linspace(0, len(images) - 1, min(IMAGES, len(images))).round().astype(int)]


def _turn(x: Float[Array, "n h w ch"], turn: int) -> Float[Array, "m h w ch"]:
    """A part of the images, another one every turn, and always as many."""
    every = max(1, min(TURNS, len(x) // PART))
    return x[turn % every :: every][: len(x) // every]


def needs(model: Model, rank: int = RANK) -> dict[str, int]:
    """Bytes that `in_training_mode` takes for its largest arrays: D, twice, and how features depend on statistics."""
    size = trees.count(statistics_of(model.batch_stats))
    features = len(trees.get(model.params, model.head)["kernel"])
    item = model.dtype.itemsize
    found = {"derivative of the statistics": 2 * min(rank, size) * trees.count(model.params) * item}
    if rank < size:
        found["features' dependence on them"] = 2 * FELT * features * size * (item + 8)
    return found


@dataclass(frozen=True)
class _Functions:
    pull: Any
    """Dᵀ of some directions, by path of the parameters."""
    push: Any
    """D of a direction of the weights."""
    feel: Any
    """∂φ/∂s of some images."""


@lru_cache(maxsize=8)
def _compiled(train: TrainingMode, forward: Forward) -> _Functions:
    def statistics(below: frozenset[str], params: Tree, momentum: Tree, old: Tree, x: Array):
        """The weights below the head, and the function from them to the statistics."""
        own, put_back = trees.chosen(params, below)
        zero = jax.tree.map(jnp.zeros_like, statistics_of(old))

        def of(own: dict[str, Array]) -> Float[Array, "s"]:
            with nn.intercept_methods(without_dropout):
                new = train(put_back(own), {**zero, **constants_of(old)}, x, jax.random.key(0))[1]
            return ravel_pytree(jax.tree.map(lambda leaf, m: leaf / (1 - m), statistics_of(new), momentum))[0]

        return own, of

    @partial(jax.jit, static_argnums=0)
    def pull(below: frozenset[str], params: Tree, momentum: Tree, old: Tree, x: Array, towards: Array):
        own, of = statistics(below, params, momentum, old, x)
        back = jax.vjp(of, own)[1]
        return jax.vmap(lambda u: back(u)[0])(towards)

    @partial(jax.jit, static_argnums=0)
    def push(below: frozenset[str], params: Tree, momentum: Tree, old: Tree, x: Array, key: Array) -> Array:
        own, of = statistics(below, params, momentum, old, x)
        return jax.jvp(of, (own,), (optax.tree_utils.tree_random_like(key, own),))[1]

    @jax.jit
    def feel(params: Tree, at: Tree, held: Tree, x: Array) -> Float[Array, "b d s"]:
        flat, unravel = ravel_pytree(at)

        def of_one(image: Array) -> Array:
            return jax.jacrev(lambda s: forward(params, {**unravel(s), **held}, image[None])[1][0])(flat)

        return jax.vmap(of_one)(x)

    return _Functions(pull, push, feel)


def _felt(
    functions: _Functions, model: Model, momentum: Tree, statistics: Tree, x: Array, below: frozenset[str], rank: int
) -> tuple[Float[np.ndarray, "r s"], Float[np.ndarray, "r s"]]:
    """U and U⁺ of the directions of the statistics that move the features most, each as far as its own moves.

    Every statistic is measured in the length of its gradient, ‖D_s‖, as random directions of the weights show it.
    """
    moves = [
        np.asarray(functions.push(below, model.params, momentum, model.batch_stats, x, key))
        for key in jax.random.split(jax.random.key(0), PROBES)
    ]
    scale = np.sqrt(np.mean(np.square(moves), 0)).astype(np.float64)
    scale = np.maximum(scale, 1e-6 * scale.max())
    felt = np.asarray(functions.feel(model.params, statistics, constants_of(model.batch_stats), x[:FELT]), np.float64)
    weighed = felt.reshape(-1, felt.shape[-1]) * scale
    _, values, right = np.linalg.svd(weighed, full_matrices=False)
    rank = min(rank, len(values))
    lost = np.sqrt(np.sum(values[rank:] ** 2) / np.sum(values**2))
    log.info("statistics of batch norm along %d of %d directions; %.1f %% of their effect is left out", rank,
             len(scale), 100 * lost)  # fmt: skip
    dtype = model.dtype
    return (right[:rank] * scale).astype(dtype), (right[:rank] / scale).astype(dtype)
