"""The neural-tangents engine: Jacobian contraction by the package, one call for each group and pair of batches."""

from collections.abc import Callable, Mapping
from functools import lru_cache

import jax
from jaxtyping import Array, Float

from linft.core import trees
from linft.core.base import Model, Outputs
from linft.core.trees import Tree
from linft.ntk import neural_tangents_compat


@lru_cache(maxsize=16)
def _group_kernel(forward: Callable, paths: frozenset[str], outputs: Outputs) -> Callable:
    """(params, batch_stats, E, x1, x2) -> the block of the parameters at these paths."""
    nt = neural_tangents_compat.load()

    @jax.jit
    def kernel(params: Tree, batch_stats: Tree, cotangents: Array, x1: Array, x2: Array) -> Array:
        own, put_back = trees.chosen(params, paths)

        def directions(own: dict[str, Array], x: Array) -> Array:
            return forward(put_back(own), batch_stats, x)[0] @ cotangents.T

        by_logit = nt.empirical_ntk_fn(
            directions,
            trace_axes=() if outputs == "full" else (-1,),
            vmap_axes=0,
            implementation=nt.NtkImplementation.JACOBIAN_CONTRACTION,
        )(x1, x2, own)
        if outputs == "full":
            return by_logit.swapaxes(1, 2)  # [n m k k] -> [n k m k]
        return by_logit * (len(cotangents) if outputs == "trace" else 1)  # the package takes the mean

    return kernel


def block(
    model: Model, labels: Mapping[str, str], cotangents: Float[Array, "k c"], outputs: Outputs
) -> Callable[[Array, Array], dict[str, Array]]:
    """A function from two batches of inputs to Θ_g between them."""
    members = {group: frozenset(p for p, g in labels.items() if g == group) for group in labels.values()}

    def between(x1: Array, x2: Array) -> dict[str, Array]:
        return {
            group: _group_kernel(model.forward, paths, outputs)(model.params, model.batch_stats, cotangents, x1, x2)
            for group, paths in members.items()
        }

    return between
