"""Which engine computes a kernel, and both engines as one type: from images to what is held, from two blocks to Θ."""

import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from linft.core.base import Model, Outputs
from linft.core.forward_pass import equal_batches
from linft.ntk import neural_tangents as package
from linft.ntk import neural_tangents_compat
from linft.ntk.layerwise import gram, jacobians, sharded
from linft.ntk.layerwise.follow import Plan, follow
from linft.ntk.layerwise.self_check import check
from linft.ntk.primitives.network import TracedNetwork
from linft.ntk.rows import Rows, gather
from linft.runtime import multihost

log = logging.getLogger("linft")

Engine = Literal["auto", "layerwise", "neural-tangents"]
EngineName = Literal["layerwise", "neural-tangents"]
Precision = Literal["highest", "tensorfloat32", "bfloat16"]


@dataclass(frozen=True)
class How:
    """How a kernel is computed; every field but batch_size, memory and mesh changes values, if only by rounding."""

    outputs: Outputs = "full"
    engine: Engine = "auto"
    batch_size: int = 16
    draws: int = 1
    seed: int = 0
    precision: Precision = "highest"
    sums: Literal["float32", "float64"] | None = None
    memory: int | None = None
    tile: int | None = None
    sketch: tuple[int, int] | None = None
    """Dimensions and seed of the random projection of large parameters' gradients."""
    passes: tuple[tuple[str, ...], ...] | None = None
    """Parameter paths of every pass over the layers, of a kernel that is gone on with; by what memory there is."""
    mesh: Mesh | None = None
    """Devices that share the work, of one host or of several in lockstep; None: one device."""


@dataclass(frozen=True)
class Backend:
    """The kernel of some parameters."""

    hold: Callable[[Array], Any]
    """From a batch of images to what is held of it."""
    join: Callable[[Iterable[tuple[Any, int]], int], Any]
    """From what is held of batches, and how many images of each are real, to what is held of all n."""
    between: Callable[[Any, Any], dict[str, np.ndarray]]
    """From what is held of two blocks to Θ_g between them."""
    check: Callable[[dict[str, np.ndarray], Array, Array | None], None]
    """Holds Θ_g between two blocks of images, or of one with itself, against backward passes."""


def choose(engine: Engine, model: Model, x: Array) -> tuple[EngineName, Plan | None]:
    """The engine's name, and how the network is followed where it is layerwise.

    Raises:
      LinftError: the package is asked for and cannot be used; and as of `follow`.
    """
    if engine == "neural-tangents":
        neural_tangents_compat.load()  # says how to get it before anything is computed
        return engine, None
    plan = follow(model, x)
    by = f", by the primitives of the network because {plan.because}" if isinstance(plan, TracedNetwork) else ""
    log.info("kernel engine: layerwise%s", by)
    return "layerwise", plan


def directions(how: How, classes: int, dtype: Any) -> Float[Array, "k c"]:
    """E: the identity, or for pseudo kernels random signs / √c."""
    if how.outputs != "pseudo":
        return jnp.eye(classes, dtype=dtype)
    signs = np.random.default_rng(how.seed).choice([-1.0, 1.0], size=(how.draws, classes))
    return jnp.asarray(signs / math.sqrt(classes), dtype)


def of_layers(
    model: Model,
    plan: Plan,
    labels: Mapping[str, str],
    cotangents: Array,
    how: How,
    differentiated: Collection[str] = (),
) -> Backend:
    """Ours: Jacobians layer by layer, held while products are taken.

    Args:
      labels: the group of every parameter path.
      differentiated: by the self-check, as of `check`: paths of the whole kernel that this is a part of.
    """
    dtype = np.dtype(how.sums or cotangents.dtype)
    pairs = np.asarray(cotangents @ cotangents.T)
    multiply = gram.product if how.mesh is None else sharded.product(how.mesh)

    def join(batches: Iterable[tuple[Rows, int]], n: int) -> Rows:
        if how.precision != "bfloat16":
            return gather(batches, n)
        half = ((jax.tree.map(lambda a: a.astype(jnp.bfloat16), rows), real) for rows, real in batches)
        return gather(half, n)

    def between(a: Rows, b: Rows) -> dict[str, np.ndarray]:
        blocks = gram.tile(a, b, pairs, how.outputs, dtype, multiply)
        return multihost.added(how.mesh, blocks) if jax.default_backend() == "cpu" else blocks

    rows_of = jacobians.rows if how.mesh is None else partial(sharded.rows, how.mesh)
    return Backend(
        _at(how.precision, multihost.translated(rows_of(model, plan, labels, cotangents, how.outputs, how.sketch))),
        join,
        _at(how.precision, multihost.translated(between)),
        _at("highest", lambda blocks, x1, x2: check(
            model, blocks, how.outputs, labels, cotangents, x1, x2, how.precision, differentiated
        )),
    )  # fmt: skip


def _at(precision: Precision, function: Callable) -> Callable:
    """The function with matrix products at a precision, whatever the user's setting."""

    def run(*args: Any) -> Any:
        with jax.default_matmul_precision(precision):
            return function(*args)

    return run


def of_package(model: Model, labels: Mapping[str, str], cotangents: Array, how: How) -> Backend:
    """The package's, which computes Jacobians anew for every pair of blocks."""
    between = package.block(model, labels, cotangents, how.outputs)

    def of_two(a: Array, b: Array) -> dict[str, np.ndarray]:
        blocks = {group: np.asarray(block) for group, block in between(a, b).items()}
        if a is not b:
            return blocks
        return {g: (block + gram.transposed(block)) / 2 for g, block in blocks.items()}

    return Backend(lambda x: x, _images, _at("highest", of_two), lambda blocks, x1, x2: None)


def _images(batches: Iterable[tuple[Array, int]], n: int) -> Array:
    return jnp.concatenate([batch[:real] for batch, real in batches])


def held(backend: Backend, x: Array, size: int, tell: Callable[[int], None]) -> Any:
    """What a backend holds of a block of images, computed in equal batches."""

    def batches() -> Iterator[tuple[Any, int]]:
        for batch, real in equal_batches(x, size):
            yield backend.hold(batch), real
            tell(real)

    return backend.join(batches(), len(x))
