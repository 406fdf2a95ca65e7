"""Equal batches: the same shape every time, so that each function compiles once; the last is padded."""

import math

import jax.numpy as jnp
from jaxtyping import Array


def size_for(n: int, most: int) -> int:
    """The size that splits n examples into as few equal batches of at most `most` as can be."""
    return math.ceil(n / math.ceil(n / most))


def split(x: Array, size: int) -> list[tuple[Array, int]]:
    """Batches of exactly `size` examples, each with how many of them are real; its last image pads the last.

    Zeros would not do: a network may have no derivative there, and none times zero is not zero.
    """
    parts = [x[i : i + size] for i in range(0, len(x), size)]
    pads = [(0, 0)] * (x.ndim - 1)
    return [(jnp.pad(part, ((0, size - len(part)), *pads), mode="edge"), len(part)) for part in parts]
