"""How each kind of layer is differentiated: one rule a kind, from the gradient at its output to that of its parameters.

A rule has two parts. `record` runs inside the forward pass and says what to keep of a call (the
input, or the normalized input of a norm). `gradients` turns that and the gradient at the layer's
output, δ [k b …] for k output directions and b examples, into per-example parameter gradients
{name: [b k size]}, output channels before inputs: the order in which one matrix product an example
gives them without a copy. A new kind of layer is one new rule and one row of RULES; any other layer whose
parameters are all its own is covered by the generic rule.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from linft.models.architectures.layers import StandardizedConv, standardized
from linft.ntk.primitives.convolution import patches

Gradients = dict[str, Float[Array, "b k _"]]


class LayerRule(NamedTuple):
    """How one kind of layer is recorded and differentiated."""

    covers: Callable[[nn.Module], bool]
    record: Callable[[nn.Module, tuple, dict], Any]
    """(bound module, args, kwargs) -> what to keep of the call."""
    gradients: Callable[[nn.Module, Mapping[str, Array], Any, Array], Gradients]
    """(module, its own parameters, what was kept, δ) -> per-example gradients."""


def _input(module: nn.Module, args: tuple, kwargs: dict) -> Array:
    return args[0]


def _flat(gradient: Float[Array, "b k ..."]) -> Float[Array, "b k size"]:
    return gradient.reshape(*gradient.shape[:2], -1)


def _bias(delta: Float[Array, "k b ..."]) -> Float[Array, "b k c"]:
    return delta.sum(tuple(range(2, delta.ndim - 1))).swapaxes(0, 1)


def _dense(module: nn.Module, params: Mapping[str, Array], x: Array, delta: Array) -> Gradients:
    """∂/∂W = Σ_p x_p ⊗ δ_p over positions p."""
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    delta_p = delta.reshape(*delta.shape[:2], -1, delta.shape[-1])
    gradients = {"kernel": _flat(jnp.einsum("kbpo,bpi->bkoi", delta_p, x))}
    return gradients | ({"bias": _bias(delta)} if "bias" in params else {})


def _conv_is_plain(module: nn.Module) -> bool:
    """Whether its taps are slices of the input padded with zeros."""
    if type(module) is not nn.Conv or module.mask is not None:
        return False
    dilation = _tuple(module.input_dilation, 1)  # of the input; that of the kernel is covered
    return set(dilation) == {1} and (module.padding in ("SAME", "VALID") or not isinstance(module.padding, str))


def _conv(module: Any, params: Mapping[str, Array], x: Array, delta: Array) -> Gradients:
    """∂/∂W = patches × δ, summed over output positions, group by group."""
    size, groups = _tuple(module.kernel_size, 1), module.feature_group_count
    rank = len(size)
    views = _patches(x, size, _tuple(module.strides, rank), _tuple(module.kernel_dilation, rank), module.padding)
    b, positions, taps, channels = views.shape
    views = views.reshape(b, positions, taps, groups, channels // groups)
    delta_p = delta.reshape(*delta.shape[:2], positions, groups, -1)
    if groups == 1:  # one matrix product an example
        gradient = jnp.einsum("kbpo,bpi->bkoi", delta_p[..., 0, :], views.reshape(b, positions, -1))
    else:
        gradient = jnp.einsum("kbpgo,bptgi->bkgoti", delta_p, views)
    gradients = {"kernel": _flat(gradient)}
    return gradients | ({"bias": _bias(delta)} if "bias" in params else {})


def _standardized_conv(module: Any, params: Mapping[str, Array], x: Array, delta: Array) -> Gradients:
    """∂/∂W of the standardized kernel S(W) as of a plain one, then the vector-Jacobian product of S."""
    plain = nn.Conv(module.features, module.kernel_size, module.strides, module.padding, use_bias=False)
    gradient = _conv(plain, params, x, delta)["kernel"]
    kernel = params["kernel"]
    _, pull = jax.vjp(standardized, kernel)

    def of_one(g: Array) -> Array:
        (plain,) = pull(jnp.moveaxis(g.reshape(kernel.shape[-1], *kernel.shape[:-1]), 0, -1))
        return jnp.moveaxis(plain, -1, 0)

    of_all = jax.vmap(jax.vmap(of_one))
    return {"kernel": _flat(of_all(gradient))}


def _patches(
    x: Array, size: tuple[int, ...], strides: tuple[int, ...], dilation: tuple[int, ...], padding: Any
) -> Float[Array, "b positions taps channels"]:
    """Every tap's view of the input, padded as layers are told to."""
    spatial = x.shape[1:-1]
    reach = [d * (s - 1) + 1 for s, d in zip(size, dilation, strict=True)]
    if isinstance(padding, str):
        pads = jax.lax.padtype_to_pads(spatial, reach, strides, padding)
    else:
        pads = [(p, p) if isinstance(p, int) else tuple(p) for p in _tuple(padding, len(size))]
    return patches(x, size, strides, pads, dilation, (1,) * len(size))


def _tuple(value: Any, rank: int) -> tuple:
    return (1 if value is None else value,) * rank if value is None or isinstance(value, int) else tuple(value)


def _normalized(module: nn.Module, args: tuple, kwargs: dict) -> Array:
    """The output at scale 1 and shift 0: x̂."""
    collections = {k: v for k, v in module.variables.items() if k != "params"}
    units = {k: jnp.ones_like(v) if k == "scale" else jnp.zeros_like(v) for k, v in module.variables["params"].items()}
    return module.clone(parent=None, name=None).apply({"params": units, **collections}, *args, **kwargs)  # pyright: ignore


def _norm(module: nn.Module, params: Mapping[str, Array], normalized: Array, delta: Array) -> Gradients:
    """∂/∂scale = Σ_p x̂_p δ_p and ∂/∂bias = Σ_p δ_p."""
    gradients = {"scale": _bias(normalized[None] * delta), "bias": _bias(delta)}
    return {name: gradients[name] for name in params}


def _norm_is_plain(module: nn.Module) -> bool:
    """Whether scale and bias lie along the last axis, which the rule takes for granted."""
    last = (-1, (-1,))
    if isinstance(module, nn.BatchNorm):
        return module.axis in last
    return (type(module) in (nn.LayerNorm, nn.RMSNorm) and module.feature_axes in last) or type(module) is nn.GroupNorm  # pyright: ignore


def _call(module: nn.Module, args: tuple, kwargs: dict) -> Any:
    collections = {k: v for k, v in module.variables.items() if k != "params"}
    return collections, args[0]


def _generic(module: nn.Module, params: Mapping[str, Array], kept: Any, delta: Array) -> Gradients:
    """One vector-Jacobian product of the layer itself for each example and output direction."""
    collections, x = kept

    def of_example(x: Array, delta: Array) -> dict[str, Array]:
        _, pull = jax.vjp(lambda p: module.apply({"params": p, **collections}, x[None])[0], dict(params))  # pyright: ignore
        return jax.vmap(lambda d: pull(d)[0])(delta)

    return {name: _flat(g) for name, g in jax.vmap(of_example, in_axes=(0, 1))(x, delta).items()}


RULES = (
    LayerRule(lambda module: type(module) is nn.Dense, _input, _dense),
    LayerRule(_conv_is_plain, _input, _conv),
    LayerRule(lambda module: type(module) is StandardizedConv, _input, _standardized_conv),
    LayerRule(_norm_is_plain, _normalized, _norm),
    LayerRule(lambda module: True, _call, _generic),
)

PLAIN = RULES[:2]
"""Those of layers that are linear in kernel and bias."""


def rule_for(module: nn.Module) -> LayerRule:
    """The first rule that covers the layer."""
    return next(rule for rule in RULES if rule.covers(module))


def laid_out(rule: LayerRule, weights: Float[Array, "r ..."]) -> Float[Array, "r size"]:
    """Arrays shaped like one parameter, in the order of the rule's gradients."""
    if rule is not RULES[-1]:
        weights = jnp.moveaxis(weights, -1, 1)
    return weights.reshape(len(weights), -1)
