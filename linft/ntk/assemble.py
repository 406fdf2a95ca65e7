"""A kernel from a function of pairs of batches: each pair once, whatever the batches hold."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

Between = Callable[[Any, Any], dict[str, Array]]
"""From what two batches hold to Θ_g between them, [b k b' k] or [b b']."""


def symmetric(batches: Sequence[Any], between: Between) -> dict[str, Array]:
    """The kernel of all batches; each pair is computed once, the other triangle is its mirror."""
    blocks = [[between(batches[i], batches[j]) for j in range(i + 1)] for i in range(len(batches))]
    grid = []
    for i in range(len(batches)):
        diagonal = {g: (b + _mirror(b)) / 2 for g, b in blocks[i][i].items()}
        upper = [{g: _mirror(b) for g, b in blocks[j][i].items()} for j in range(i + 1, len(batches))]
        grid.append([*blocks[i][:i], diagonal, *upper])
    return join(grid)


def _mirror(block: Array) -> Array:
    return block.transpose(2, 3, 0, 1) if block.ndim == 4 else block.T


def join(grid: list[list[dict[str, Array]]]) -> dict[str, Array]:
    """One array a group from a grid of blocks."""
    columns = 2 if next(iter(grid[0][0].values())).ndim == 4 else 1
    return {
        group: jnp.concatenate([jnp.concatenate([block[group] for block in row], columns) for row in grid], 0)
        for group in grid[0][0]
    }
