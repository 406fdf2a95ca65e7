"""The Jacobian itself [n c p], parameter after parameter: what the kernel is the product of with itself."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linft.core import trees
from linft.core.base import Model
from linft.core.errors import no_derivative
from linft.core.forward_pass import equal_batches, equal_size
from linft.core.trees import Tree
from linft.ntk.layerwise import jacobians
from linft.ntk.layerwise.follow import follow
from linft.ntk.layerwise.rules import RULES, LayerRule, laid_out
from linft.ntk.layerwise.self_check import PROBED, check
from linft.ntk.primitives import derivatives
from linft.ntk.primitives.network import TracedNetwork
from linft.ntk.rows import Rows


def flattened(model: Model, x: Float[Array, "n ..."], paths: tuple[str, ...]) -> dict[str, Float[Array, "_"]]:
    """Parameters as vectors, in the order in which the Jacobian has their numbers.

    Raises:
      LinftError: as of `follow`.
    """
    leaves, _ = trees.chosen(model.params, frozenset(paths))
    return {path: flatten(leaves[path]) for path, flatten in _flattening(model, x, paths).items()}


def restored(model: Model, x: Float[Array, "n ..."], vectors: Mapping[str, Float[Array, "_"]]) -> Tree:
    """The model's weights with others in the place of some, given as `flattened` has them."""
    leaves, put_back = trees.chosen(model.params, frozenset(vectors))
    ways = _flattening(model, x, tuple(vectors))
    # What lays the numbers out anew permutes them, so that its transpose is its inverse.
    return put_back({path: jax.linear_transpose(ways[path], leaves[path])(v)[0] for path, v in vectors.items()})


def _flattening(
    model: Model, x: Float[Array, "n ..."], paths: tuple[str, ...]
) -> dict[str, Callable[[Array], Float[Array, "_"]]]:
    plan = follow(model, x)
    if isinstance(plan, TracedNetwork):
        return dict.fromkeys(paths, partial(derivatives.laid_out, leading=0))
    rules = {layer.path: layer.rule for layer in plan} | {model.head: RULES[0]}

    def of(rule: LayerRule) -> Callable[[Array], Float[Array, "_"]]:
        return lambda leaf: laid_out(rule, leaf[None])[0]

    return {path: of(rules[path.rpartition("/")[0]]) for path in paths}


def jacobian(
    model: Model,
    x: Float[Array, "n ..."],
    groups: Mapping[str, str],
    batch_size: int,
    tell: Callable[[int], None] = lambda images: None,
) -> Float[Array, "n c p"]:
    """∂f/∂w of the logits by some parameters, held against backward passes of the whole network.

    Args:
      groups: by path of the parameters, the group of each, by which they are held against those.

    Raises:
      LinftError: it differs from those by more than rounding, or is not finite; and as of `follow`.
    """
    paths, c = tuple(groups), model.num_classes
    directions = jnp.eye(c, dtype=model.dtype)
    rows_of = jacobians.rows(model, follow(model, x), {path: path for path in paths}, directions, "full")
    found, done = None, 0
    with jax.default_matmul_precision("highest"):
        for part, real in equal_batches(x, equal_size(len(x), batch_size)):
            by_path = _apart(rows_of(part), paths, c)
            if found is None:
                blocks = _blocks({path: np.asarray(rows[:PROBED]) for path, rows in by_path.items()}, groups)
                check(model, blocks, "full", groups, directions, part[:PROBED], None)
                found = jnp.zeros((len(x), c, sum(rows.shape[-1] for rows in by_path.values())), model.dtype)
            found = _put(found, by_path, done, real, paths)
            done += real
            tell(real)
    assert found is not None
    finite = np.asarray(jnp.isfinite(found).all((1, 2)))
    if not finite.all():
        raise no_derivative("the Jacobian", int(np.argmin(finite)))
    return found


def _blocks(rows: Mapping[str, np.ndarray], groups: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The kernel of every group."""
    found: dict[str, np.ndarray] = {}
    for path, group in groups.items():
        found[group] = np.einsum("nkp,mlp->nkml", rows[path], rows[path]) + found.get(group, 0)
    return found


@partial(jax.jit, static_argnums=(1, 2))
def _apart(rows: Rows, paths: tuple[str, ...], c: int) -> dict[str, Float[Array, "b c _"]]:
    """The gradients of every parameter, each the only one of its group, from whatever form they are in."""

    def dense(path: str) -> Array:
        if path in rows.dense:
            return rows.dense[path][0]
        if path in rows.factored:
            ((h, along),) = rows.factored[path]
            gradient = jnp.einsum("boi,ko->bkoi", h, along)
        else:
            (inputs,) = rows.head[path]
            gradient = jnp.einsum("ko,bi->bkoi", jnp.eye(c, dtype=inputs.dtype), inputs)
        return gradient.reshape(*gradient.shape[:2], -1)

    return {path: dense(path) for path in paths}


@partial(jax.jit, donate_argnums=0, static_argnums=(3, 4))
def _put(whole: Array, by_path: dict[str, Array], start: Any, real: int, paths: tuple[str, ...]) -> Array:
    rows = jnp.concatenate([by_path[path][:real] for path in paths], -1)
    return jax.lax.dynamic_update_slice_in_dim(whole, rows, start, 0)
