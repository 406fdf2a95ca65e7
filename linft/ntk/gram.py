"""From the rows of two batches to one block of the kernel, group by group."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from linft.base import Outputs
from linft.ntk.layerwise import Rows


def block(
    a: Rows, b: Rows, labels: Mapping[str, str], head: str, cotangents: Float[Array, "k c"], outputs: Outputs
) -> dict[str, Array]:
    """Θ_g between two batches: [b k b' k] for full, [b b'] for trace and pseudo.

    Args:
      a, b: rows of the two batches.
      labels: the group of every parameter path.
      head: path of the head, whose part is in closed form from the features.
      cotangents: output directions E: the identity, or random signs / √c for pseudo.
    """
    blocks: dict[str, Array] = {}
    for path, group in labels.items():
        if path in a.jacobians:
            part = _product(a.jacobians[path], b.jacobians[path], outputs)
        else:
            part = _head(a.features, b.features, path == f"{head}/bias", cotangents, outputs)
        blocks[group] = blocks[group] + part if group in blocks else part
    return blocks


@partial(jax.jit, static_argnums=2)
def _product(a: Float[Array, "n k p"], b: Float[Array, "m k p"], outputs: Outputs) -> Array:
    n, k, _ = a.shape
    if outputs == "full":
        return (a.reshape(n * k, -1) @ b.reshape(len(b) * k, -1).T).reshape(n, k, len(b), k)
    product = jnp.einsum("nkp,mkp->knm", a, b).sum(0)  # output by output: one long sum loses digits in float32
    return product / k if outputs == "pseudo" else product


def _head(a: Float[Array, "n d"], b: Float[Array, "m d"], is_bias: bool, cotangents: Array, outputs: Outputs) -> Array:
    inner = jnp.ones((len(a), len(b)), a.dtype) if is_bias else a @ b.T
    directions = cotangents @ cotangents.T
    if outputs == "full":
        return inner[:, None, :, None] * directions[None, :, None, :]
    product = inner * jnp.trace(directions)
    return product / len(cotangents) if outputs == "pseudo" else product
