"""Parameter trees by layer group: which leaf belongs to which group, and sums over groups.

Groups are an ordered mapping from a group's name to the path prefixes of its parameters:
`{"stem": ("stem",), "stage1.block0": ("stage1/block0",), "head": ("head",)}`. What stands before a dot is
the group's stage, which is a group too: `"stage1"`, of all that are named after it. Of a stage some layer
groups may be joined, `"stage1.block0+block1"`; and any group may be split into its kernels and its vectors
(norm scales and biases), named `"stage1"` and `"stage1/vectors"`.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linft.core.errors import LinftError

Groups = Mapping[str, tuple[str, ...]]
Tree = Any
Class = TypeVar("Class", bound=type)

VECTORS = "/vectors"


def path_of(key_path: tuple) -> str:
    """A leaf's path as text, `"stage1/block0/conv1/kernel"`."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def layer_group(group: str) -> str:
    """The layer group that a group, split or not, belongs to."""
    return group.removesuffix(VECTORS)


def stage(group: str) -> str:
    """The stage that a group, of whatever kind, belongs to."""
    return layer_group(group).partition(".")[0]


def stages(groups: Groups) -> dict[str, tuple[str, ...]]:
    """The groups of each stage as one.

    Example:
      >>> stages({"stem": ("conv",), "stage1.block0": ("a",), "stage1.block1": ("b", "norm"), "head": ("head",)})
      {'stem': ('conv',), 'stage1': ('a', 'b', 'norm'), 'head': ('head',)}
    """
    found: dict[str, tuple[str, ...]] = {}
    for group, prefixes in groups.items():
        name = stage(group) + (VECTORS if group.endswith(VECTORS) else "")
        found[name] = (*found.get(name, ()), *prefixes)
    return found


def joined(groups: Sequence[str]) -> str:
    """The name of some layer groups of one stage as one group.

    Example:
      >>> joined(["stage1.block0", "stage1.block1"]), members("stage1.block0+block1/vectors")
      ('stage1.block0+block1', ('stage1.block0', 'stage1.block1'))
    """
    first, *others = groups
    return "+".join([first, *(group.partition(".")[2] for group in others)])


def members(group: str) -> tuple[str, ...]:
    """The layer groups that a group, split or not, was joined from."""
    of, dot, names = layer_group(group).partition(".")
    return tuple(of + dot + name for name in names.split("+"))


def labels(params: Tree, groups: Groups) -> Tree:
    """A tree like params with the name of each leaf's group; groups may be split into vectors."""

    def label(key_path, leaf):
        path = path_of(key_path)
        names = [
            g
            for g, prefixes in groups.items()
            if not g.endswith(VECTORS) and any(path == p or path.startswith(p + "/") for p in prefixes)
        ]
        if len(names) != 1:
            found = "no layer group" if not names else "the layer groups " + " and ".join(names)
            raise LinftError(f"parameter {path} belongs to {found}; give each parameter exactly one")
        split = names[0] + VECTORS
        return split if leaf.ndim <= 1 and split in groups else names[0]

    return jax.tree_util.tree_map_with_path(label, params)


def split_vectors(groups: Groups) -> dict[str, tuple[str, ...]]:
    """Every group split into its kernels and its vectors."""
    return {name: p for g, p in groups.items() for name in (g, g + VECTORS)}


def chosen(params: Tree, paths: frozenset[str]) -> tuple[dict[str, jax.Array], Callable[[dict[str, jax.Array]], Tree]]:
    """The leaves at some paths, and a function that gives params with others in their place."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)

    def put_back(own: dict[str, jax.Array]) -> Tree:
        return jax.tree.unflatten(structure, [own.get(path_of(p), leaf) for p, leaf in leaves])

    return {path_of(p): leaf for p, leaf in leaves if path_of(p) in paths}, put_back


def map_by_label(fn: Callable, labels: Tree, *trees: Tree) -> Tree:
    """Map fn(label, *leaves); the labels may be a prefix of the trees, one label a subtree."""
    return jax.tree.map(
        lambda label, *subtrees: jax.tree.map(lambda *leaves: fn(label, *leaves), *subtrees), labels, *trees
    )


def restrict(tree: Tree, labels: Tree, group: str) -> Tree:
    """The tree with zeros outside one group."""
    return jax.tree.map(lambda label, leaf: leaf if label == group else jnp.zeros_like(leaf), labels, tree)


def dots_by_group(a: Tree, b: Tree, labels: Tree, groups: Iterable[str]) -> dict[str, jax.Array]:
    """Inner products ⟨a_g, b_g⟩ of two trees, group by group."""
    products = jax.tree.map(lambda x, y: jnp.vdot(x, y), a, b)
    sums = dict.fromkeys(groups, jnp.zeros((), jnp.float32))
    for label, product in zip(jax.tree.leaves(labels), jax.tree.leaves(products), strict=True):
        sums[label] = sums[label] + product
    return sums


def subtract(a: Tree, b: Tree) -> Tree:
    """a − b, leaf by leaf."""
    return jax.tree.map(jnp.subtract, a, b)


def interpolated(a: Tree, b: Tree, share: float | Float[Array, ""]) -> Tree:
    """a + share (b − a), leaf by leaf: exactly a where b is the same."""
    return jax.tree.map(lambda x, y: x + share * (y - x), a, b)


def precision(tree: Tree) -> Any:
    """The widest floating type among a tree's numbers, float32 at least; float64 only where JAX has it switched on."""
    return jnp.result_type(jnp.float32, *(leaf.dtype for leaf in jax.tree.leaves(tree) if _is_floating(leaf)))


def in_precision(tree: Tree, dtype: Any) -> Tree:
    """The tree with its floating numbers in one type; what is in it already stays the same array."""

    def cast(leaf: Any) -> Any:
        return leaf if not _is_floating(leaf) or leaf.dtype == dtype else jnp.asarray(leaf, dtype)

    return jax.tree.map(cast, tree)


def _is_floating(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def get(tree: Tree, path: str) -> Tree:
    """The subtree at a path such as `"head"` or `"backbone/linear"`."""
    for key in path.split("/"):
        tree = tree[key]
    return tree


def put(tree: Tree, path: str, value: Tree) -> Tree:
    """A copy of the nested mapping with another subtree at a path, in the same place."""
    key, _, rest = path.partition("/")
    return {k: (put(v, rest, value) if rest else value) if k == key else v for k, v in tree.items()}


def count(tree: Tree) -> int:
    """Number of entries in all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def sizes(params: Tree, labels: Tree) -> list[tuple[str, int]]:
    """The label and number of entries of every leaf."""
    return [(label, leaf.size) for label, leaf in zip(jax.tree.leaves(labels), jax.tree.leaves(params), strict=True)]


def pytree(cls: Class) -> Class:
    """Register a frozen dataclass with JAX, which may then rebuild it around anything, not only arrays.

    As `jax.tree_util.register_dataclass`, except that rebuilding does not call `__init__`: JAX fills
    trees with placeholders while it traces, and those are not of the annotated types.
    """
    fields = dataclasses.fields(cls)
    data = tuple(f.name for f in fields if not f.metadata.get("static"))
    static = tuple(f.name for f in fields if f.metadata.get("static"))

    def flatten_with_keys(tree):
        leaves = tuple((jax.tree_util.GetAttrKey(name), getattr(tree, name)) for name in data)
        return leaves, tuple(getattr(tree, name) for name in static)

    def unflatten(aux, leaves):
        tree = object.__new__(cls)
        for name, value in zip((*data, *static), (*leaves, *aux), strict=True):
            object.__setattr__(tree, name, value)
        return tree

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten)
    return cls


@jax.jit
def finite(tree: Tree) -> jax.Array:
    """Whether every number of a tree is finite; one program, where one for each shape would take long to compile."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def digest(tree: Tree) -> str:
    """A short hash of a tree's arrays, numbers and texts, and of their paths, whatever the order of its keys.

    Leaves that have a digest of their own, as images in files, give that.

    Example:
      >>> a, b = np.zeros(2), np.ones(2)
      >>> digest({"a": a, "b": b}) == digest({"b": b, "a": a}), digest({"a": a}) == digest({"b": a})
      (True, False)
    """
    state = hashlib.sha256()
    leaves = {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    for path, leaf in sorted(leaves.items()):
        if hasattr(leaf, "digest"):
            state.update(f"{path} {leaf.digest};".encode())
            continue
        array = np.ascontiguousarray(leaf)
        if array.dtype.hasobject:  # whose bytes are addresses
            raise TypeError(f"{type(leaf).__name__} is neither a number nor a text, and has no digest")
        state.update(f"{path} {array.dtype} {array.shape};".encode())
        state.update(array.tobytes())
    return state.hexdigest()[:16]
