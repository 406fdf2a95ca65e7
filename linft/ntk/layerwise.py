"""Our engine: Jacobians of all examples layer by layer, from one forward and one vmapped backward pass.

An interceptor catches every layer's input and adds a zero perturbation to its output; the gradient
with respect to the perturbations, vmapped over output directions, is every layer's output gradient.
Rules turn these into per-example parameter gradients. The head is in closed form: for cotangents
E [k c] and features φ its Gram is (φφ'ᵀ + 1) ⊗ EEᵀ.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import tracers
from jaxtyping import Array, Float

from linft import trees
from linft.base import Model
from linft.ntk.rules import Rule, rule_for
from linft.trees import Tree


@dataclass(frozen=True, eq=False)  # told apart by identity: the plan of an architecture is made once
class Layer:
    """One call of one layer with parameters."""

    path: str
    module: nn.Module
    rule: Rule
    output: jax.ShapeDtypeStruct
    """Of one example, [1 …]."""


class Uncovered(Exception):
    """The model has parameters that no layer rule covers; the message says which."""


@lru_cache(maxsize=16)
def _plan(forward: Callable, head: str, structure: Any, shapes: tuple, stats: Any, x: jax.ShapeDtypeStruct) -> tuple:
    """The layers with parameters, in call order; the rules have followed them with shapes alone."""
    params = jax.tree.unflatten(structure, shapes)
    layers: list[Layer] = []
    traces = []

    def watched(*args: Any) -> Any:  # a function of its own each time: JAX would not trace `forward` itself again
        traces.append(tracers.current_trace())
        return forward(*args)

    def visit(module: nn.Module, path: str, args: tuple, kwargs: dict, output: Any) -> Any:
        if tracers.current_trace() != traces[0]:
            raise Uncovered(f"{path} is called inside a transformation, such as remat, scan or jvp")
        if not isinstance(output, jax.Array) or not args or not isinstance(args[0], jax.Array):
            raise Uncovered(f"{path} does not map one array to one array")
        if not args[0].shape[:1] == output.shape[:1] == x.shape[:1]:
            raise Uncovered(f"{path} does not map one example to one example")
        unbound = module.clone(parent=None, name=None)
        of_one = jax.ShapeDtypeStruct((1, *output.shape[1:]), output.dtype)
        layers.append(Layer(path, unbound, rule_for(module), of_one))
        return output

    with nn.intercept_methods(_interceptor(params, head, visit)):
        jax.eval_shape(watched, params, jax.tree.unflatten(*stats), x)
    covered = {f"{layer.path}/{name}" for layer in layers for name in _own(params, layer.path)}
    for key_path, _ in jax.tree.leaves_with_path(params):
        path = trees.path_of(key_path)
        if path not in covered and not path.startswith(head + "/"):
            raise Uncovered(f"the parameter {path} belongs to no layer that a rule covers")
    every = _jacobians(forward, head, tuple(layers), frozenset(layer.path for layer in layers))
    cotangents = jax.ShapeDtypeStruct((1, trees.get(params, head)["kernel"].shape[1]), x.dtype)
    try:
        every.eval_shape(params, jax.tree.unflatten(*stats), x, cotangents)
    except (TypeError, ValueError) as error:
        raise Uncovered(f"a layer is called in a way that its rule cannot follow ({error})") from error
    return tuple(layers)


def plan(model: Model, x: Float[Array, "n ..."]) -> tuple[Layer, ...]:
    """The layers of a model with parameters, in call order, the head left out.

    Raises:
      Uncovered: a parameter belongs to no layer, such as one that a module with submodules holds itself.
    """
    leaves, structure = jax.tree.flatten(model.params)
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    leaves, stats = jax.tree.flatten(model.batch_stats)
    stats = (stats, tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves))
    images = jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype)  # two, to see which axes are the examples'
    return _plan(model.forward, model.head, structure, shapes, stats, images)


def _own(params: Tree, path: str) -> dict[str, Any]:
    """A layer's parameters that are its own, not a submodule's."""
    return {k: v for k, v in trees.get(params, path).items() if not isinstance(v, Mapping)}


def _interceptor(params: Tree, head: str, visit: Callable) -> Callable:
    """An interceptor that calls visit(module, path, args, kwargs, output) for every layer with parameters."""
    busy = []  # a rule may call a clone of the layer, which is not a layer of the network

    def intercept(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        output = call(*args, **kwargs)
        path = "/".join(context.module.path)
        if busy or not path or path == head or context.method_name in ("setup", "__post_init__"):
            return output
        try:
            own = _own(params, path)
        except KeyError:  # a module without parameters
            return output
        if not own:
            return output
        if context.method_name != "__call__" or len(own) != len(trees.get(params, path)):
            raise Uncovered(f"the module {path} uses parameters of its own beside submodules or outside __call__")
        busy.append(path)
        try:
            return visit(context.module, path, args, kwargs, output)
        finally:
            busy.pop()

    return intercept


@lru_cache(maxsize=16)
def _jacobians(forward: Callable, head: str, layers: tuple[Layer, ...], wanted: frozenset[str]) -> Callable:
    """(params, batch_stats, x [b …], E [k c]) -> ({path: [b k size]}, features [b d]), jitted."""

    def passes(params: Tree, batch_stats: Tree, x: Array, perturbations: dict[int, Array]) -> tuple:
        kept: dict[int, Any] = {}
        calls = iter(range(len(layers)))

        def visit(module: nn.Module, path: str, args: tuple, kwargs: dict, output: Array) -> Array:
            i = next(calls)
            if i not in perturbations:
                return output
            kept[i] = layers[i].rule.record(module, args, kwargs)
            return output + perturbations[i]

        with nn.intercept_methods(_interceptor(params, head, visit)):
            logits, features = forward(params, batch_stats, x)
        return logits, (kept, features)

    @jax.jit
    def jacobians(params: Tree, batch_stats: Tree, x: Array, cotangents: Array) -> tuple[dict[str, Array], Array]:
        zeros = {
            i: jnp.zeros((len(x), *layer.output.shape[1:]), layer.output.dtype)
            for i, layer in enumerate(layers)
            if layer.path in wanted
        }
        _, pull, (kept, features) = jax.vjp(lambda p: passes(params, batch_stats, x, p), zeros, has_aux=True)
        every = jnp.broadcast_to(cotangents[:, None, :], (len(cotangents), len(x), cotangents.shape[1]))
        deltas = jax.vmap(lambda e: pull(e)[0])(every)
        result: dict[str, Array] = {}
        for i, delta in deltas.items():
            layer = layers[i]
            for name, gradient in layer.rule.gradients(layer.module, _own(params, layer.path), kept[i], delta).items():
                path = f"{layer.path}/{name}"  # a layer called twice adds up
                result[path] = result[path] + gradient if path in result else gradient
        return result, features

    return jacobians


@dataclass(frozen=True)
class Rows:
    """What the Gram needs of a batch of examples."""

    jacobians: dict[str, Float[Array, "b k size"]]
    """By parameter path, the head left out."""
    features: Float[Array, "b d"]
    """Input of the head."""


def rows(
    model: Model, layers: tuple[Layer, ...], labels: Mapping[str, str], cotangents: Float[Array, "k c"]
) -> Callable[[Float[Array, "b ..."]], Rows]:
    """A function from a batch of inputs to its rows, for the parameters that `labels` names."""
    wanted = frozenset(layer.path for layer in layers if any(p.startswith(layer.path + "/") for p in labels))
    compiled = _jacobians(model.forward, model.head, layers, wanted)

    def of_batch(x: Array) -> Rows:
        jacobians, features = compiled(model.params, model.batch_stats, x, cotangents)
        return Rows({path: j for path, j in jacobians.items() if path in labels}, features)

    return of_batch


def trim(batch: Rows, n: int) -> Rows:
    """The first n examples."""
    return Rows({path: j[:n] for path, j in batch.jacobians.items()}, batch.features[:n])
