"""What the Gram needs of some examples: their gradients, by group, as arrays whose products add up to the kernel."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linft.core import trees
from linft.core.trees import Tree
from linft.ntk.layerwise import projection

SMALL = 1024
"""Parameters of fewer numbers are put together, group by group: one matrix product for all of them."""


@trees.pytree
@dataclass(frozen=True)
class Rows:
    """What the Gram needs of some examples: arrays by group, of which the kernel is the sum of products."""

    dense: dict[str, list[Any]]
    """Per-example gradients of the outputs, [b k size]; k is 1 where one gradient stands for all of them."""
    factored: dict[str, list[tuple[Any, Any]]]
    """(H [b o size], V [k o]): the gradient of output k with respect to channel o's parameters is V_ko H_o."""
    sketched: dict[str, list[Any]]
    """Random projections of per-example gradients, [b k length]."""
    head: dict[str, list[Any]]
    """Inputs of the head, [b d]: φ for its kernel, 1 for its bias."""


def add_gradients(
    found: Rows,
    gradients: Mapping[str, Float[Array, "b _ size"]],
    groups: Mapping[str, str],
    sketch: tuple[int, int] | None,
) -> None:
    """Put per-example gradients, by parameter path, where they belong: sketched, dense, or joined where they are small.

    Args:
      groups: by parameter path.
      sketch: dimensions and seed of the random projection of parameters with more numbers.
    """
    small: dict[tuple[str, int], list[Array]] = {}
    for path, gradient in gradients.items():
        group, size = groups[path], gradient.shape[-1]
        if sketch and size > sketch[0]:
            found.sketched.setdefault(group, []).append(projection.sketch(gradient, path, *sketch))
        elif size < SMALL:
            small.setdefault((group, gradient.shape[1]), []).append(gradient)
        else:
            found.dense.setdefault(group, []).append(gradient)
    for (group, _), parts in small.items():
        found.dense.setdefault(group, []).append(jnp.concatenate(parts, -1) if len(parts) > 1 else parts[0])


def add_head(found: Rows, features: Float[Array, "b d"], labels: Mapping[str, str]) -> None:
    """The inputs of the head, for those of its parameters, kernel and bias, that have a group here."""
    for path, group in labels.items():
        found.head.setdefault(group, []).append(jnp.ones_like(features[:, :1]) if path.endswith("/bias") else features)


def gather(batches: Iterable[tuple[Rows, int]], n: int) -> Rows:
    """The rows of n examples from those of batches, each without what was padded.

    They are put in place as they come, so that no more than one batch is there twice.
    """
    on_host = jax.default_backend() == "cpu"
    empty, put, convert = (np.empty, _put_on_host, np.asarray) if on_host else (jnp.zeros, _put, jnp.asarray)
    whole, along, done = None, {}, 0
    for rows, real in batches:
        by_example, along = _apart(rows)
        if whole is None:
            whole = jax.tree.map(lambda a: empty((n, *a.shape[1:]), a.dtype), by_example)
        whole = put(whole, by_example, done, real)
        done += real
    return _together(whole, jax.tree.map(convert, along))


def _put_on_host(whole: Tree, part: Tree, start: int, real: int) -> Tree:
    for place, values in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
        place[start : start + real] = np.asarray(values)[:real]
    return whole


@partial(jax.jit, donate_argnums=0, static_argnums=3)
def _put(whole: Tree, part: Tree, start: Any, real: int) -> Tree:
    return jax.tree.map(
        lambda place, values: jax.lax.dynamic_update_slice_in_dim(place, values[:real], start, 0), whole, part
    )


def _apart(rows: Rows) -> tuple[Any, dict[str, list[Any]]]:
    """What there is of every example, and the V that all have in common."""
    h = {group: [h for h, _ in pairs] for group, pairs in rows.factored.items()}
    return (rows.dense, h, rows.sketched, rows.head), {g: [v for _, v in pairs] for g, pairs in rows.factored.items()}


def _together(by_example: Any, along: dict[str, list[Any]]) -> Rows:
    dense, h, sketched, head = by_example
    return Rows(dense, {g: list(zip(h[g], along[g], strict=True)) for g in h}, sketched, head)
