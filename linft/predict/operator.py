"""A tangent's kernel as a linear operator on coordinates α [n c]: full blocks, or traces with their output mixing."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linft.core.base import Kernel, Tangent
from linft.ntk.tiled import memory

Numbers = Array | np.ndarray
Operator = list[tuple[Numbers, Numbers | None]]
"""A sum of parts: (Θ [m c n c], None), or (K [m n], A [c c]) for K ⊗ A."""


def operator(kernel: Kernel, tangent: Tangent, weights: Mapping[str, Any]) -> Operator:
    """Σ_g μ_g Θ_g over the groups that have a weight."""
    if kernel.outputs == "full":
        return [(sum(weight * kernel.blocks[g] for g, weight in weights.items()), None)]  # pyright: ignore
    size = tangent.logits_train.shape[1] if kernel.outputs == "pseudo" else 1  # pseudo estimates trace / c
    return [(size * weight * kernel.blocks[g], tangent.mixing[g]) for g, weight in weights.items()]


def apply(op: Operator, alpha: Float[Numbers, "n c"]) -> Float[Numbers, "m c"]:
    """Θ α."""
    return sum(_part(block, mixing, alpha) for block, mixing in op)  # pyright: ignore


def apply_rows(op: Operator, rows: Array, alpha: Float[Array, "n c"]) -> Float[Array, "b c"]:
    """The rows of Θ α that belong to some examples."""
    return sum(_part(block[rows], mixing, alpha) for block, mixing in op)  # pyright: ignore


def quadratic(op: Operator, rows: Array, alpha: Float[Array, "b c"]) -> Float[Array, ""]:
    """αᵀ Θ α, where α is zero but for some examples."""
    i, j = rows[:, None], rows[None, :]

    def of(block: Array, mixing: Array | None) -> Array:
        if mixing is None:
            return jnp.einsum("ik,ijkl,jl->", alpha, block[i, :, j, :], alpha)
        return jnp.vdot(alpha, block[i, j] @ alpha @ mixing)

    return sum(of(block, mixing) for block, mixing in op)  # pyright: ignore


def _part(block: Numbers, mixing: Numbers | None, alpha: Numbers) -> Numbers:
    if mixing is None:
        m, c = block.shape[:2]
        return (block.reshape(m * c, -1) @ alpha.reshape(-1)).reshape(m, c)
    return block @ alpha @ mixing  # the mixing is symmetric


def on_host(op: Operator) -> Operator:
    """The same in NumPy's float64, as few parts as there are mixings: parts of one are added up.

    Raises:
      LinftError: its numbers, as many as the parts have, do not fit into the host's memory.
    """
    memory.check_host({"the kernel in float64": 8 * sum(block.size for block, _ in op)}, "use fewer images")
    found: dict[bytes | None, tuple[Numbers, Numbers | None]] = {}
    for block, mixing in op:
        key = None if mixing is None else np.asarray(mixing).tobytes()
        double = np.asarray(block, np.float64)
        if key in found:
            found[key] = (found[key][0] + double, found[key][1])
        else:
            found[key] = (double, None if mixing is None else np.asarray(mixing, np.float64))
    return [part for part in found.values() if np.any(part[0])] or list(found.values())[:1]


def among(op: Operator, rows: np.ndarray) -> Operator:
    """The operator between some examples."""
    return [(block[rows][:, :, rows] if mixing is None else block[np.ix_(rows, rows)], mixing) for block, mixing in op]
