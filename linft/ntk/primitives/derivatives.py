"""The per-example Jacobians of a network's traced program, by backward passes vmapped over outputs and examples.

What depends on parameters alone (standardized kernels, casts, adapters, broadcast biases) is computed once for all
examples; its derivative is applied to the gradient of its result. So is the derivative of what is used several
times, to their sum.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from linft.core import trees
from linft.core.trees import Tree
from linft.ntk.primitives.interpreter import evaluate
from linft.ntk.rows import Rows, add_gradients, add_head


@dataclass(frozen=True)
class Derivatives:
    """Which parameters' gradients are computed, and how: what one compiled program is for."""

    labels: tuple[tuple[str, str], ...]
    """(parameter path, group), of the parameters wanted."""
    head: frozenset[str]
    """Those whose kernel is in closed form."""
    sketch: tuple[int, int] | None = None
    """Dimensions and seed of the random projection of parameters with more numbers."""


@lru_cache(maxsize=32)
def program(forward: Callable, wanted: Derivatives) -> Callable:
    """(params, batch_stats, x [b …], E [k c], offsets) -> (Rows, []), jitted.

    As the program of a network that is followed by its layers, which may measure something and take offsets.
    """
    groups = dict(wanted.labels)
    paths = frozenset(path for path in groups if path not in wanted.head)

    @jax.jit
    def rows(params: Tree, batch_stats: Tree, x: Array, cotangents: Array, offsets: Array) -> tuple[Rows, list[Any]]:
        own, put_back = trees.chosen(params, paths)
        traced = jax.make_jaxpr(lambda own, x: forward(put_back(own), batch_stats, x))(own, x[:1])

        def of_one(image: Array) -> tuple[dict[str, Array], Array]:
            def outputs(own: dict[str, Array]) -> tuple[Array, Array]:
                logits, features = evaluate(traced, *jax.tree.leaves((own, image[None])))
                return logits, features

            logits, pull, features = jax.vjp(outputs, own, has_aux=True)
            towards = cotangents.astype(logits.dtype)
            return jax.vmap(lambda e: pull(e[None])[0])(towards), features[0]

        gradients, features = jax.vmap(of_one)(x)
        found = Rows({}, {}, {}, {})
        add_gradients(found, {path: laid_out(g, 2) for path, g in gradients.items()}, groups, wanted.sketch)
        add_head(found, features, {path: group for path, group in groups.items() if path in wanted.head})
        return found, []

    return rows


def laid_out(gradient: Array, leading: int) -> Array:
    """With the axes of the parameter as one, its last axis first: as one matrix product an example gives it."""
    if gradient.ndim > leading + 1:
        gradient = jnp.moveaxis(gradient, -1, leading)
    return gradient.reshape(*gradient.shape[:leading], -1)
