"""A convolution whose kernel's gradient stays one matrix product when it is vmapped over examples and outputs.

What JAX makes of that gradient, a convolution too, becomes one with a group for each example, which is slow
everywhere. With a_p the patch of the input under position p and δ_p the gradient there,

    ∂W = Σ_p δ_p ⊗ a_p,

where the patches are slices of the input, the same for every output: one product for all outputs of an example.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, SupportsInt

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def covers(parameters: Mapping[str, Any]) -> bool:
    """Whether it is a convolution as networks have it, over the batch one by one."""
    return parameters["batch_group_count"] == 1


def convolution(parameters: Mapping[str, Any], x: Array, kernel: Array) -> Array:
    """`jax.lax.conv_general_dilated` with the parameters that a traced program has of it."""

    def plain(x: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated_p.bind(x, kernel, **parameters)

    @jax.custom_vjp
    def convolved(x: Array, kernel: Array) -> Array:
        return plain(x, kernel)

    def forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
        return plain(x, kernel), (x, kernel)

    def backward(kept: tuple[Array, Array], delta: Array) -> tuple[Array, Array]:
        x, kernel = kept
        (of_x,) = jax.linear_transpose(lambda x: plain(x, kernel), x)(delta)
        return of_x, _of_kernel(parameters, x, kernel, delta)

    convolved.defvjp(forward, backward)
    return convolved(x, kernel)


def _of_kernel(parameters: Mapping[str, Any], x: Array, kernel: Array, delta: Array) -> Array:
    """∂W in the layout of the kernel, from any layouts of the input and of δ, group by group."""
    dimensions, groups = parameters["dimension_numbers"], parameters["feature_group_count"]
    size = [kernel.shape[axis] for axis in dimensions.rhs_spec[2:]]
    views = patches(
        _channels_last(x, dimensions.lhs_spec),
        size,
        parameters["window_strides"],
        parameters["padding"],
        parameters["rhs_dilation"],
        parameters["lhs_dilation"],
    )
    views = views.reshape(-1, *views.shape[2:])  # the positions of all inputs, which are of one example
    delta = _channels_last(delta, dimensions.out_spec)
    channels = delta.shape[-1]
    if groups == 1:
        found = jnp.einsum("po,pi->oi", delta.reshape(-1, channels), views.reshape(len(views), -1))
    else:
        by_group = views.reshape(*views.shape[:2], groups, -1)
        found = jnp.einsum("pgo,ptgi->goti", delta.reshape(len(views), groups, -1), by_group)
    order = (dimensions.rhs_spec[0], *dimensions.rhs_spec[2:], dimensions.rhs_spec[1])  # outputs, taps, inputs
    found = found.reshape([kernel.shape[axis] for axis in order])
    return jnp.transpose(found, tuple(map(order.index, range(len(order))))).astype(kernel.dtype)


def _channels_last(array: Array, spec: Sequence[int]) -> Float[Array, "n ... c"]:
    return jnp.transpose(array, (spec[0], *spec[2:], spec[1]))


def patches(
    x: Float[Array, "n ... c"],
    size: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[SupportsInt, SupportsInt]],
    dilation: Sequence[int],
    input_dilation: Sequence[int],
) -> Float[Array, "n positions taps c"]:
    """Every tap's view of the input, by slices: much faster on CPU than a convolution with an identity kernel."""
    between = [(int(low), int(high), d - 1) for (low, high), d in zip(padding, input_dilation, strict=True)]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *between, (0, 0, 0)))
    reach = [d * (s - 1) + 1 for s, d in zip(size, dilation, strict=True)]
    out = [(n - r) // s + 1 for n, r, s in zip(x.shape[1:-1], reach, strides, strict=True)]
    views = []
    for tap in itertools.product(*map(range, size)):
        slices = tuple(
            slice(t * d, t * d + s * (n - 1) + 1, s) for t, d, s, n in zip(tap, dilation, strides, out, strict=True)
        )
        views.append(x[(slice(None), *slices)].reshape(x.shape[0], -1, x.shape[-1]))
    return jnp.stack(views, axis=2)
