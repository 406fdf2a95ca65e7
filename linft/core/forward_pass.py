"""Forward passes, each compiled once: programs that depend on a network by its functions alone, and equal batches."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from linft.core import parallel, trees
from linft.core.preprocessing import Preprocessing
from linft.core.trees import Tree

Forward = Callable[[Tree, Tree, Array], tuple[Array, Array]]
"""(params, batch_stats, x) -> (logits, features)."""


# Models of one architecture share `forward`, and so what is compiled; few are kept, since some hold weights.
@lru_cache(maxsize=16)
def forward_pass(
    forward: Forward,
    output: Literal["logits", "features"],
    preprocessing: Preprocessing | None = None,
    mesh: Mesh | None = None,
) -> Callable[[Tree, Tree, Array], Array]:
    """The jitted function (params, batch_stats, x) -> logits [n c] or features [n d].

    Args:
      preprocessing: where x is uint8 images of the input size, which it normalizes.
      mesh: devices that share the rows of x; every host gets the whole output.

    Example:
      >>> import jax, jax.numpy as jnp, linft
      >>> model = linft.models.create("cifar_resnet8", 3, jax.random.key(0), width=2)
      >>> other = linft.models.create("cifar_resnet8", 3, jax.random.key(1), width=2)
      >>> logits_of = forward_pass(model.forward, "logits")
      >>> logits_of is forward_pass(other.forward, "logits")
      True
      >>> logits_of(model.params, model.batch_stats, jnp.ones((2, 32, 32, 3))).shape
      (2, 3)
    """

    @jax.jit
    def outputs(params: Tree, batch_stats: Tree, x: Array) -> Array:
        x = parallel.constrain_rows(mesh, x)
        if preprocessing is not None:
            x = preprocessing.normalize(x, trees.precision(params))
        logits, features = forward(params, batch_stats, x)
        return parallel.everywhere(mesh, logits if output == "logits" else features)

    return outputs


def equal_size(n: int, most: int) -> int:
    """The size that splits n examples into as few equal batches of at most `most` as can be.

    Example:
      >>> equal_size(10, 4)
      4
      >>> equal_size(9, 4)
      3
    """
    return math.ceil(n / math.ceil(n / most))


def equal_batches(x: Array, size: int) -> list[tuple[Array, int]]:
    """Batches of exactly `size` examples, each with how many of them are real; its last image pads the last.

    Zeros would not do: a network may have no derivative there, and none times zero is not zero.
    """
    parts = [x[i : i + size] for i in range(0, len(x), size)]
    pads = [(0, 0)] * (x.ndim - 1)
    return [(jnp.pad(part, ((0, size - len(part)), *pads), mode="edge"), len(part)) for part in parts]
