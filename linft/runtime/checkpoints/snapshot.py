"""A tree as plain numpy arrays by path, what must be known of each, and the tree again."""

import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linft.core import trees
from linft.core.trees import Tree

Arrays = dict[str, np.ndarray]


class Kind(NamedTuple):
    """Dtype and shape of a leaf; of random keys, the shape of the words that they are made of."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def take(tree: Tree) -> Arrays:
    """A copy of each array, on the host.

    Raises:
      RuntimeError: an array is spread over several processes, by JAX.

    Example:
      >>> take({"a": jnp.ones(2), "b": (jax.random.key(3), 4)})
      {'a': array([1., 1.], dtype=float32), 'b.0': array([0, 3], dtype=uint32), 'b.1': array(4)}
    """
    # On CPU a plain conversion would be a view of a buffer that the training step overwrites.
    return {p: np.array(jax.random.key_data(x) if _is_key(x) else x, order="C") for p, x in _by_path(tree).items()}


def put(arrays: Arrays, like: Tree) -> Tree:
    """The tree of the arrays: each of the kind (JAX, numpy, Python), on the devices of its leaf in `like`."""
    return jax.tree.unflatten(
        jax.tree.structure(like),
        # An empty array may be missing, since it is as any other.
        [_placed(arrays[path], leaf) if path in arrays else leaf for path, leaf in _by_path(like).items()],
    )


def kinds(tree: Tree) -> dict[str, Kind]:
    """Dtype and shape of each leaf."""
    return {path: _kind(leaf) for path, leaf in _by_path(tree).items()}


def difference(there: dict[str, Kind], here: dict[str, Kind]) -> str:
    """The first leaf that differs, in words, and how many more do; empty if none does.

    Example:
      >>> difference({"w": Kind("float32", (2, 3))}, {"w": Kind("float32", (2,)), "b": Kind("int32", ())})
      'w is float32[2, 3] there and float32[2] here, and 1 more differs'
    """
    first, *more = [path for path in {**here, **there} if there.get(path) != here.get(path)] or [""]
    if not first:
        return ""
    ending = f", and {len(more)} more differ{'s' * (len(more) == 1)}" if more else ""
    return f"{first} is {there.get(first, 'missing')} there and {here.get(first, 'missing')} here{ending}"


def checksum(array: np.ndarray) -> int:
    """CRC-32 of dtype, shape and bytes."""
    start = zlib.crc32(f"{array.dtype}{array.shape}".encode())
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8), start)


def _by_path(tree: Tree) -> dict[str, Any]:
    """The leaves in order, by paths like `params.head.kernel`: Orbax would read a slash as a directory."""
    return {trees.path_of(p).replace("/", "."): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _kind(leaf: Any) -> Kind:
    if _is_key(leaf):
        return Kind(str(leaf.dtype), jax.eval_shape(jax.random.key_data, leaf).shape)
    return Kind(str(leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype), np.shape(leaf))


def _placed(array: np.ndarray, leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return array
    if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return type(leaf)(array[()])
    value = jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else array  # pyright: ignore
    # An array that was not tied to a device must not become so: it could no longer meet those of other devices.
    tied = not isinstance(leaf, jax.Array) or leaf.committed  # pyright: ignore
    return jax.device_put(value, leaf.sharding if tied else None)
