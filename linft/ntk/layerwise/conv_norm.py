"""A layer and the frozen batch norm on its output, differentiated together.

With y = s x̂ + β, x̂ = (z − μ)/σ, z = Wᵀa + b and δ the gradient at y, all of them follow from δ:

    ∂W = H s/σ,  H = Σ_p a_p ⊗ δ_p    ∂b = D s/σ    ∂β = D = Σ_p δ_p
    ∂s = Σ_p x̂_p δ_p = (Σ_i W_i H_i + (b − μ) D) / σ

so the gradient at z need not be kept, and of the two forms of ∂s and of ∂W (factor before or after
the sum over positions) those are taken that go through the smaller arrays.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from linft.ntk.layerwise.rules import PLAIN, Gradients, LayerRule


def covers(module: nn.Module, rule: LayerRule, norm: nn.Module) -> bool:
    """Whether the rule is of a plain convolution or dense layer and the norm a batch norm over its channels."""
    return rule in PLAIN and isinstance(norm, nn.BatchNorm) and norm.axis in (-1, (-1,))


class NormCall(NamedTuple):
    """Of a call of the norm."""

    normalized: Float[Array, "b ... o"]
    mean: Float[Array, "o"]
    inverse: Float[Array, "o"]
    """1/σ."""


def record(norm: Any, z: Array) -> NormCall:
    """What to keep of a frozen batch norm that is bound to its variables and called with z."""
    stats = norm.variables["batch_stats"]
    inverse = jax.lax.rsqrt(stats["var"] + norm.epsilon)
    along = (1,) * (z.ndim - 1) + (-1,)
    return NormCall((z - stats["mean"].reshape(along)) * inverse.reshape(along), stats["mean"], inverse)


def gradients(
    rule: LayerRule,
    module: nn.Module,
    params: Mapping[str, Array],
    scale: Array | None,
    kept: Any,
    of_norm: NormCall,
    delta: Float[Array, "k b ... o"],
) -> tuple[Gradients, Gradients]:
    """Per-example gradients of the layer's parameters, and of the norm's scale and bias."""
    factor = of_norm.inverse if scale is None else scale * of_norm.inverse
    inputs, channels = math.prod(params["kernel"].shape[:-1]), params["kernel"].shape[-1]
    inner = tuple(range(2, delta.ndim - 1))
    d = delta.sum(inner).swapaxes(0, 1)
    if math.prod(delta.shape[2:-1]) < inputs:
        scaled = rule.gradients(module, params, kept, delta * factor.reshape((1,) * (delta.ndim - 1) + (-1,)))
        return scaled, {"bias": d, "scale": (delta * of_norm.normalized[None]).sum(inner).swapaxes(0, 1)}
    h = rule.gradients(module, {"kernel": params["kernel"]}, kept, delta)["kernel"]
    by_channel = h.reshape(*h.shape[:2], channels, inputs)
    kernel = jnp.moveaxis(params["kernel"], -1, 0).reshape(1, 1, channels, inputs)
    offset = params["bias"] - of_norm.mean if "bias" in params else -of_norm.mean
    of_scale = ((by_channel * kernel).sum(-1) + offset[None, None] * d) * of_norm.inverse[None, None]
    of_layer = {"kernel": (by_channel * factor[None, None, :, None]).reshape(h.shape)}
    of_bias = {"bias": d * factor[None, None]} if "bias" in params else {}
    return of_layer | of_bias, {"bias": d, "scale": of_scale}
