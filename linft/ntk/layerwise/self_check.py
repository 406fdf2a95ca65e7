"""The self-check of the layerwise engine: vᵀ Θ_g w = ⟨J_gᵀ v, J_gᵀ w⟩, the right side by plain backward passes.

It catches what no rule saw: a raw parameter, a tied weight, a layer that a rule gets wrong.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linft.core import trees
from linft.core.base import Model, Outputs
from linft.core.errors import LinftError
from linft.core.trees import Tree

log = logging.getLogger("linft")

PROBED = 4
"""Examples on either side that carry the probe: a rule that is wrong is so for any of them."""
TOLERANCE = {"float32": 1e-3, "float64": 1e-8}  # of float rounding over a deep network, far below any wrong rule
COARSE = 5e-2
"""Of less precise products, whose difference is logged."""
AT_ONCE = 2**28
"""Numbers in the gradients of the outputs that are held at a time."""


def check(
    model: Model,
    blocks: Mapping[str, np.ndarray],
    outputs: Outputs,
    labels: Mapping[str, str],
    cotangents: Float[Array, "k c"],
    x1: Array,
    x2: Array | None,
    precision: str = "highest",
    differentiated: Collection[str] = (),
) -> None:
    """Hold the kernel's blocks between two sets of images against backward passes of the whole network.

    For full kernels v is random over a few examples and all outputs. For trace and pseudo kernels it
    is random over a few examples, and the right side is summed over the outputs.

    Args:
      x2: None where both sides are x1.
      precision: of the products in `blocks`; the backward passes are always at the highest.
      differentiated: parameter paths of the backward passes, so that parts of a kernel share one program; those of
        `labels` by default.

    Raises:
      LinftError: a block differs by more than rounding.
    """
    k, full = len(cotangents), outputs == "full"
    chosen = [np.linspace(0, len(x) - 1, min(PROBED, len(x))).astype(int) for x in (x1, x1 if x2 is None else x2)]
    dots, squares1, squares2 = (dict.fromkeys(blocks, 0.0) for _ in range(3))
    v, w = (np.random.default_rng(side).normal(size=(len(c), k if full else 1)) for side, c in enumerate(chosen))
    if x2 is None:
        w = v
    paths = frozenset(differentiated or labels)
    pull = partial(_pullback(model.forward, paths), model.params, model.batch_stats)
    sizes = sum(leaf.size for p, leaf in jax.tree_util.tree_leaves_with_path(model.params) if trees.path_of(p) in paths)
    step = 1 if full else max(1, AT_ONCE // sizes)
    for start in range(0, 1 if full else k, step):
        towards = cotangents[None] if full else cotangents[start : start + step, None]  # [outputs at once, k', c]
        sides = [
            pull(x[c], jnp.einsum("nk,okc->onc", jnp.asarray(p, cotangents.dtype), towards))
            for x, c, p in ((x1, chosen[0], v), (x1 if x2 is None else x2, chosen[1], w))[: 1 if x2 is None else 2]
        ]
        left, right = sides[0], sides[-1]
        for sums, a, b in ((dots, left, right), (squares1, left, left), (squares2, right, right)):
            for group, value in jax.device_get(_dots(a, b, tuple(labels.items()))).items():
                sums[group] += float(value)
    whole = (sum(squares1.values()) * sum(squares2.values())) ** 0.5
    worst = 0.0
    for group, theta in blocks.items():
        corner = np.asarray(theta, np.float64)[chosen[0]]
        if full:
            got = float(np.einsum("nk,nkml,ml->", v, corner[:, :, chosen[1]], w))
        else:
            got = float(v[:, 0] @ corner[:, chosen[1]] @ w[:, 0]) * (k if outputs == "pseudo" else 1)
        difference = abs(got - dots[group]) / ((squares1[group] * squares2[group]) ** 0.5 + 1e-6 * whole + 1e-300)
        worst = max(worst, difference)
        if not difference <= (TOLERANCE[str(x1.dtype)] if precision == "highest" else COARSE):
            raise LinftError(
                f"the layerwise kernel of {group} fails its self-check (vᵀΘw = {got:.6g}, by backward passes "
                f'{dots[group]:.6g}); a layer is used in a way that no rule covers: pass engine="neural-tangents"'
            )
    if precision != "highest":
        log.info("the kernel at precision %s differs by %.1e from the highest", precision, worst)


@partial(jax.jit, static_argnums=2)
def _dots(left: dict[str, Array], right: dict[str, Array], labels: tuple[tuple[str, str], ...]) -> dict[str, Array]:
    """⟨left, right⟩ of every group; one program, where one for each shape would take long to compile."""
    dots: dict[str, Array] = {}
    for path, group in labels:
        part = jnp.vdot(left[path], right[path])
        dots[group] = dots[group] + part if group in dots else part
    return dots


@lru_cache(maxsize=16)
def _pullback(forward: Callable, paths: frozenset[str]) -> Callable:
    """(params, batch_stats, x [n …], cotangents [o n c]) -> by path in `paths`, Jᵀ of every cotangent; jitted."""

    @jax.jit
    def pull(params: Tree, batch_stats: Tree, x: Array, cotangents: Array) -> dict[str, Array]:
        own, put_back = trees.chosen(params, paths)
        back = jax.vjp(lambda own: forward(put_back(own), batch_stats, x)[0], own)[1]
        return jax.vmap(lambda c: back(c)[0])(cotangents)

    return pull
