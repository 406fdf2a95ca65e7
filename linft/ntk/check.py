"""The self-check of the layerwise engine: vᵀ Θ_g w = ⟨J_gᵀ v, J_gᵀ w⟩, the right side by a plain backward pass.

It catches what no rule saw: a raw parameter, a tied weight, a layer that a rule gets wrong.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linft import trees
from linft.base import Kernel, Model
from linft.errors import LinftError
from linft.ntk import batching
from linft.trees import Tree

PROBED = 8  # examples that carry the probe where outputs are summed, since each output then costs a backward pass
TOLERANCE = {"float32": 1e-3, "float64": 1e-8}  # of float rounding over a deep network, far below any wrong rule


def check(
    model: Model,
    kernel: Kernel,
    labels: Mapping[str, str],
    cotangents: Float[Array, "k c"],
    x1: Array,
    x2: Array | None,
    batch_size: int,
) -> None:
    """Hold every block against backward passes of the whole network with random cotangents.

    For full kernels v is random over all examples and outputs: one backward pass over the images.
    For trace and pseudo kernels it is random over a few examples, and the right side is summed over
    the outputs.

    Raises:
      LinftError: a block differs by more than rounding.
    """
    full, directions = kernel.outputs == "full", range(1 if kernel.outputs == "full" else len(cotangents))
    v = _probe(len(x1), len(cotangents), full, 0, x1.dtype)
    w = v if x2 is None else _probe(len(x2), len(cotangents), full, 1, x1.dtype)
    dot, square1, square2 = (dict.fromkeys(kernel.blocks, 0.0) for _ in range(3))
    pairs = tuple(labels.items())
    for k in directions:
        left = _gradient(
            model, x1, v if full else v[:, k : k + 1], cotangents if full else cotangents[k : k + 1], batch_size
        )
        right = (
            left
            if x2 is None
            else _gradient(
                model, x2, w if full else w[:, k : k + 1], cotangents if full else cotangents[k : k + 1], batch_size
            )
        )
        for sums, a, b in ((dot, left, right), (square1, left, left), (square2, right, right)):
            for group, value in jax.device_get(_dots(a, b, pairs)).items():
                sums[group] += float(value)
    whole = (sum(square1.values()) * sum(square2.values())) ** 0.5
    for group, theta in kernel.blocks.items():
        if full:
            got = float(jnp.vdot(v, jnp.einsum("nkml,ml->nk", theta, w)))
        else:
            got = float(v[:, 0] @ theta @ w[:, 0]) * (len(cotangents) if kernel.outputs == "pseudo" else 1)
        scale = (square1[group] * square2[group]) ** 0.5 + 1e-6 * whole
        if not abs(got - dot[group]) <= TOLERANCE[str(x1.dtype)] * scale:
            raise LinftError(
                f"the layerwise kernel of {group} fails its self-check (vᵀΘw = {got:.6g}, by backward passes "
                f'{dot[group]:.6g}); a layer is used in a way that no rule covers: pass engine="neural-tangents"'
            )


@partial(jax.jit, static_argnums=2)
def _dots(left: dict[str, Array], right: dict[str, Array], labels: tuple[tuple[str, str], ...]) -> dict[str, Array]:
    """⟨left, right⟩ of every group; one program, where one for each shape would take long to compile."""
    dots: dict[str, Array] = {}
    for path, group in labels:
        part = jnp.vdot(left[path], right[path])
        dots[group] = dots[group] + part if group in dots else part
    return dots


def _probe(n: int, k: int, full: bool, seed: int, dtype: np.dtype) -> Float[Array, "n k"]:
    rng = np.random.default_rng(seed)
    if full:
        return jnp.asarray(rng.normal(size=(n, k)), dtype)
    u = np.zeros((n, 1))
    chosen = rng.permutation(n)[:PROBED]
    u[chosen, 0] = rng.normal(size=len(chosen))
    return jnp.asarray(np.repeat(u, k, axis=1), dtype)


def _gradient(
    model: Model, x: Array, v: Float[Array, "n k"], cotangents: Float[Array, "k c"], batch_size: int
) -> dict[str, Array]:
    """Jᵀ (v E), by parameter path."""
    used = np.flatnonzero(np.asarray(v).any(axis=1))
    x, out = x[used], v[used] @ cotangents
    size = batching.size_for(len(x), batch_size)
    pull, total = _pullback(model.forward), None
    for (images, _), (cotangent, _) in zip(batching.split(x, size), batching.split(out, size), strict=True):
        gradient = pull(model.params, model.batch_stats, images, cotangent)
        total = gradient if total is None else jax.tree.map(jnp.add, total, gradient)
    return {trees.path_of(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(total)}


@lru_cache(maxsize=16)
def _pullback(forward: Callable) -> Callable:
    """(params, batch_stats, x, cotangent [n c]) -> Jᵀ cotangent, jitted."""

    @jax.jit
    def pull(params: Tree, batch_stats: Tree, x: Array, cotangent: Array) -> Tree:
        return jax.vjp(lambda p: forward(p, batch_stats, x)[0], params)[1](cotangent)[0]

    return pull
