"""The layers of a network that have parameters, in call order, and how the gradient flows between them.

One trace of the forward pass with shapes alone: an interceptor sees every layer's call and marks its
output, and the marks in the traced program say where each output goes.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
from flax.core import tracers
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Literal
from jaxtyping import Array, Float

from linft.core import trees
from linft.core.base import Model
from linft.core.trees import Tree
from linft.models.lora import A
from linft.ntk.layerwise import conv_norm, low_rank
from linft.ntk.layerwise.rules import RULES, LayerRule, rule_for

MARK = "linft layer "


@dataclass(frozen=True, eq=False)  # told apart by identity: the plan of an architecture is made once
class Layer:
    """One call of one layer with parameters."""

    path: str
    module: nn.Module
    rule: LayerRule
    output: jax.ShapeDtypeStruct
    """Of one example, [1 …]."""
    normalizes: int | None = None
    """The layer whose output this batch norm takes, and nothing else does."""
    last: bool = False
    """Whether nothing but batch norms lies between it and the features, of the layers with parameters."""


class Uncovered(Exception):
    """The model has parameters that no layer rule covers; the message says which."""


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
    found = _plan_or_why_not(model.forward, model.head, structure, shapes, stats, images)
    if isinstance(found, str):
        raise Uncovered(found)
    return found


@lru_cache(maxsize=16)
def _plan_or_why_not(*network: Any) -> tuple[Layer, ...] | str:
    try:
        return _plan(*network)
    except Uncovered as reason:
        return str(reason)


def _plan(forward: Callable, head: str, structure: Any, shapes: tuple, stats: Any, x: jax.ShapeDtypeStruct) -> tuple:
    params, batch_stats = jax.tree.unflatten(structure, shapes), jax.tree.unflatten(*stats)
    layers: list[Layer] = []
    outputs: list[Array] = []
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
        unbound, rule = module.clone(parent=None, name=None), rule_for(module)
        if A in own(params, path):
            rule = low_rank.adapted(rule)
        delta = jax.ShapeDtypeStruct((1, *output.shape), output.dtype)
        try:
            jax.eval_shape(  # in a trace of its own, or it would count among the uses of the layer's input
                lambda weights, delta: rule.gradients(unbound, weights, rule.record(module, args, kwargs), delta),
                own(params, path),
                delta,
            )
        except (TypeError, ValueError) as error:
            raise Uncovered(f"a layer is called in a way that its rule cannot follow ({error})") from error
        of_one = jax.ShapeDtypeStruct((1, *output.shape[1:]), output.dtype)
        source = next((i for i, earlier in enumerate(outputs) if earlier is args[0]), None)
        joins = source is not None and conv_norm.covers(layers[source].module, layers[source].rule, module)
        layers.append(Layer(path, unbound, rule, of_one, source if joins else None))
        outputs.append(checkpoint_name(output, f"{MARK}{len(outputs)}"))
        return outputs[-1]

    with nn.intercept_methods(interceptor(params, head, visit)):
        program = jax.make_jaxpr(watched)(params, batch_stats, x)
    covered = {f"{layer.path}/{name}" for layer in layers for name in own(params, layer.path)}
    for key_path, _ in jax.tree.leaves_with_path(params):
        path = trees.path_of(key_path)
        if path not in covered and not path.startswith(head + "/"):
            raise Uncovered(f"the parameter {path} belongs to no layer that a rule covers")
    return _flow(layers, program.jaxpr)


def _flow(layers: list[Layer], jaxpr: Any) -> tuple[Layer, ...]:
    """The layers with what the traced program says of where their outputs go."""
    marked: dict[Any, int] = {}
    uses = [0] * len(layers)
    origins: dict[Any, frozenset[int]] = {}
    reached: list[set[int]] = [set() for _ in layers]
    for equation in jaxpr.eqns:
        variables = [v for v in equation.invars if not isinstance(v, Literal)]
        for variable in variables:
            if variable in marked:
                uses[marked[variable]] += 1
        of = frozenset().union(*(origins.get(v, frozenset()) for v in variables))
        mark = str(equation.params.get("name", ""))
        if equation.primitive.name == "name" and mark.startswith(MARK):
            i = int(mark.removeprefix(MARK))
            marked[equation.outvars[0]] = i
            for origin in of:
                reached[origin].add(i)
            of |= {i}
        origins.update((v, of) for v in equation.outvars)
    features = jaxpr.outvars[1]
    calls = [layer.path for layer in layers]
    return tuple(
        dataclasses.replace(
            layer,
            normalizes=layer.normalizes if layer.normalizes is not None and uses[layer.normalizes] == 1 else None,
            last=i in origins.get(features, ())
            and layer.rule in RULES[:-1]
            and calls.count(layer.path) == 1
            and all(isinstance(layers[j].module, nn.BatchNorm) for j in reached[i]),
        )
        for i, layer in enumerate(layers)
    )


def own(params: Tree, path: str) -> dict[str, Any]:
    """A layer's parameters that are its own, not a submodule's."""
    return {k: v for k, v in trees.get(params, path).items() if not isinstance(v, Mapping)}


def interceptor(params: Tree, head: str, visit: Callable) -> Callable:
    """An interceptor that calls visit(module, path, args, kwargs, output) for every layer with parameters."""
    busy = []  # a rule may call a clone of the layer, which is not a layer of the network

    def intercept(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        output = call(*args, **kwargs)
        path = "/".join(context.module.path)
        if busy or not path or path == head or context.method_name in ("setup", "__post_init__"):
            return output
        try:
            parameters = own(params, path)
        except KeyError:  # a module without parameters
            return output
        if not parameters:
            return output
        if context.method_name != "__call__" or len(parameters) != len(trees.get(params, path)):
            raise Uncovered(f"the module {path} uses parameters of its own beside submodules or outside __call__")
        busy.append(path)
        try:
            return visit(context.module, path, args, kwargs, output)
        finally:
            busy.pop()

    return intercept
