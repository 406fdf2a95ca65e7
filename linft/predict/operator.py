"""A tangent's kernel as a linear operator on coordinates α [n c]: full blocks, or traces with their output mixing."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float

from linft.base import Kernel, Tangent

Operator = list[tuple[Array, Array | None]]
"""A sum of parts: (Θ [m c n c], None), or (K [m n], A [c c]) for K ⊗ A."""


def operator(kernel: Kernel, tangent: Tangent, weights: Mapping[str, Any]) -> Operator:
    """Σ_g μ_g Θ_g over the groups that have a weight."""
    if kernel.outputs == "full":
        return [(sum(weight * kernel.blocks[g] for g, weight in weights.items()), None)]  # pyright: ignore
    size = tangent.logits_train.shape[1] if kernel.outputs == "pseudo" else 1  # pseudo estimates trace / c
    return [(size * weight * kernel.blocks[g], tangent.mixing[g]) for g, weight in weights.items()]


def apply(op: Operator, alpha: Float[Array, "n c"]) -> Float[Array, "m c"]:
    """Θ α."""
    return sum(_part(block, mixing, alpha) for block, mixing in op)  # pyright: ignore


def apply_rows(op: Operator, rows: Array, alpha: Float[Array, "n c"]) -> Float[Array, "b c"]:
    """The rows of Θ α that belong to some examples."""
    return sum(_part(block[rows], mixing, alpha) for block, mixing in op)  # pyright: ignore


def _part(block: Array, mixing: Array | None, alpha: Array) -> Array:
    if mixing is None:
        m, c = block.shape[:2]
        return (block.reshape(m * c, -1) @ alpha.reshape(-1)).reshape(m, c)
    return block @ alpha @ mixing  # the mixing is symmetric


def dense(op: Operator) -> Float[Array, "m c n c"]:
    """The operator as one array."""
    return sum(  # pyright: ignore
        block if mixing is None else block[:, None, :, None] * mixing[None, :, None, :] for block, mixing in op
    )
