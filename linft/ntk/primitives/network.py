"""A network as the traced program of its forward pass on one example.

Of one example there is no batch to be told from other axes, whatever the program reshapes: per-example derivatives are
those of this program, vmapped. It is the same function where the outputs of an image in a batch do not depend on the
other images, which the first batch has to show.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jaxtyping import Array, Bool, Float

from linft.core import trees
from linft.core.base import Model
from linft.core.errors import LinftError
from linft.core.trees import Tree
from linft.ntk.primitives.interpreter import evaluate, inside

PRODUCTS = ("conv_general_dilated", "dot_general")


@dataclass(frozen=True)
class TracedNetwork:
    """What is known of a network beside its functions."""

    paths: tuple[str, ...]
    """Of the parameters that are used, in the order of their first use."""
    head: frozenset[str]
    """Those of the head that make logits of features and are used for nothing else: their kernel is in closed form."""
    numbers: int
    """About how many numbers a pass keeps of one example: the outputs of matrix products, and as many of what is
    between them."""
    because: str
    """Why it is not followed layer by layer."""

    def units(self, labels: Mapping[str, str]) -> list[dict[str, str]]:
        """Labels module by module, in network order, the head last."""
        found: dict[str, dict[str, str]] = {}
        apart: dict[str, str] = {}
        for path in sorted(labels, key=lambda path: self.paths.index(path) if path in self.paths else -1):
            unit = apart if path in self.head else found.setdefault(path.rpartition("/")[0], {})
            unit[path] = labels[path]
        return [unit for unit in (*found.values(), apart) if unit]


def network(model: Model, x: Float[Array, "n ..."], because: str) -> TracedNetwork:
    """The network of a model, for images of this shape.

    Raises:
      LinftError: it cannot be called with one image, or does not give logits and features of it.
    """
    leaves, structure = jax.tree.flatten((model.params, model.batch_stats, x[:1]))
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    try:
        return _network(model.forward, model.head, because, structure, shapes)
    except LinftError as error:
        raise LinftError(f"{model.name} {error}") from error.__cause__


@lru_cache(maxsize=16)
def _network(forward: Callable, head: str, because: str, structure: Any, shapes: tuple) -> TracedNetwork:
    operands = params, *_ = jax.tree.unflatten(structure, shapes)
    try:
        program, outputs = jax.make_jaxpr(lambda *operands: forward(*operands), return_shape=True)(*operands)
    except Exception as error:  # whatever a user's code raises
        told = (str(error).splitlines() or [""])[0]
        raise LinftError(f"cannot be called with one image: {type(error).__name__}: {told}") from error
    width, classes = trees.get(params, head)["kernel"].shape
    found = tuple(output.shape for output in outputs)
    if found != ((1, classes), (1, width)):
        raise LinftError(f"gives, of one image, outputs {found}, not logits {(1, classes)} and features {(1, width)}")
    jaxpr = jax.make_jaxpr(partial(evaluate, program))(*shapes).jaxpr  # without calls
    paths = [trees.path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    path_of = dict(zip(jaxpr.invars, paths, strict=False))  # parameters come first
    uses = [v for e in jaxpr.eqns for v in e.invars if not isinstance(v, Literal) and v in path_of]
    below = _origins(jaxpr, jaxpr.outvars[1])
    closed = {path for v, path in path_of.items() if path.startswith(head + "/") and v not in below}
    if not _multiplies(jaxpr, next(v for v, path in path_of.items() if path == f"{head}/kernel")):
        closed = set()  # as of a linearized network, whose logits are of other features
    return TracedNetwork(tuple(dict.fromkeys(path_of[v] for v in uses)), frozenset(closed), _numbers(jaxpr), because)


def _multiplies(jaxpr: Any, kernel: Any) -> bool:
    """Whether the head's kernel does nothing but multiply the features."""
    uses = [e for e in jaxpr.eqns if any(v is kernel for v in e.invars)]
    return [e.primitive.name for e in uses] == ["dot_general"] and any(v is jaxpr.outvars[1] for v in uses[0].invars)


def _origins(jaxpr: Any, output: Any) -> set[Any]:
    """Every variable that an output is computed from."""
    found = {output}
    for equation in reversed(jaxpr.eqns):
        if not found.isdisjoint(equation.outvars):
            found |= {v for v in equation.invars if not isinstance(v, Literal)}
    return found


def _numbers(jaxpr: Any) -> int:
    return 2 * sum(times * math.prod(e.outvars[0].aval.shape) for times, e in _equations(jaxpr)
                   if e.primitive.name in PRODUCTS)  # fmt: skip


def _equations(jaxpr: Any, times: int = 1) -> Iterator[tuple[int, Any]]:
    """Every equation and how often it runs, those of programs inside others too."""
    for equation in jaxpr.eqns:
        yield times, equation
        for program in inside(equation):
            often = equation.params["length"] if equation.primitive.name == "scan" else 1
            yield from _equations(getattr(program, "jaxpr", program), times * often)


def check_alone(model: Model, x: Float[Array, "n ..."]) -> None:
    """Refuse a network that mixes the images of a batch, as those of this one show.

    Raises:
      LinftError: the logits of the first have a derivative with respect to the last.
    """
    pair = jnp.stack([x[0], x[-1]])
    with jax.default_matmul_precision("highest"):
        if bool(_mixes(model.forward)(model.params, model.batch_stats, pair)):
            raise LinftError(
                f"the outputs of {model.name} for an image depend on the other images of its batch, as with batch norm "
                "in training mode; a kernel needs a forward pass that takes each image for itself"
            )


@lru_cache(maxsize=16)
def _mixes(forward: Callable) -> Callable[[Tree, Tree, Float[Array, "2 ..."]], Bool[Array, ""]]:
    """Whether the first image's logits have a derivative with respect to the second image that is not exactly zero."""

    @jax.jit
    def mixes(params: Tree, batch_stats: Tree, pair: Array) -> Array:
        logits, pull = jax.vjp(lambda pair: forward(params, batch_stats, pair)[0], pair)
        towards = jnp.zeros_like(logits).at[0].set(1 + jnp.arange(logits.shape[1], dtype=logits.dtype))
        (of_pair,) = pull(towards)
        return ((of_pair[1] != 0) & jnp.isfinite(of_pair[1])).any()  # zero times infinity is none of the two

    return mixes
