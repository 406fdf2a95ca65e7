"""What architectures share: convolutions, fast on CPU too or standardized, torch's batch norm, groups by stage.

On CPU XLA's gradient by the kernel is slow, and its smallest convolutions naive.
"""

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from linft.core.errors import LinftError
from linft.core.trees import Groups

Sizes = tuple[int, int]
Padding = tuple[Sizes, Sizes]
LAYOUT = ("NHWC", "HWIO", "NHWC")
FEW_CHANNELS = 8
"""Below these, as in the first layer, matrices are too narrow to gain anything."""
FEW_PRODUCTS = 2**24
"""Convolutions of fewer multiplications gain less in a run than the longer compilation costs."""
NORM_NAME = re.compile(r"(^|[/_])norm\d*$")
"""What the path of every norm ends with, and of no other layer."""


def convolution(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> Array:
    """`lax.conv_general_dilated`: y[n,h,w,o] = Σ_ijc x[n, sh + i − p, sw + j − p, c] k[i,j,c,o].

    On an accelerator it is that function. On CPU, for images NHWC in float32 or float64, not too few,
    without groups and dilation, a kernel of 1×1 or one that is larger than its output is a sum of matrix
    products, and so is the derivative by any other kernel, hence its gradient too. It is the same
    up to round-off, under jvp, vjp and vmap and at any order.

    Example:
      >>> import jax.numpy as jnp
      >>> y = convolution(jnp.ones((8000, 4, 4, 8)), jnp.ones((3, 3, 8, 2)), (1, 1), "SAME", None, None, LAYOUT)
      >>> y[0, :, :, 0].tolist()[1]
      [48.0, 72.0, 72.0, 48.0]
    """
    if jax.default_backend() != "cpu" or not (
        lhs.ndim == 4
        and lhs.dtype == rhs.dtype
        and lhs.dtype in (jnp.float32, jnp.float64)
        and lhs.size * rhs.size // rhs.shape[2] >= FEW_PRODUCTS * math.prod(window_strides)
        and feature_group_count == 1
        and {*(lhs_dilation or ()), *(rhs_dilation or ())} <= {1}
        and lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
        == lax.conv_dimension_numbers(lhs.shape, rhs.shape, LAYOUT)
    ):
        return lax.conv_general_dilated(
            lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count,
            precision=precision,
        )  # fmt: skip
    size, spatial, (s, t) = rhs.shape[:2], lhs.shape[1:3], window_strides
    pads = lax.padtype_to_pads(spatial, size, (s, t), padding) if isinstance(padding, str) else padding
    (top, bottom), (left, right) = pads
    how = ((s, t), ((top, bottom), (left, right)), precision)
    outputs = _outputs(spatial, size, *how[:2])
    if min(top, bottom, left, right, *outputs) < 0:  # cropped, or empty: as lax has it
        return _convolve(lhs, rhs, *how)
    if size == (1, 1) or any(k > n for k, n in zip(size, outputs, strict=True)):
        return _products(lhs, rhs, *how)
    return _convolve(lhs, rhs, *how) if rhs.shape[2] < FEW_CHANNELS else _mixed(lhs, rhs, *how)


Conv = partial(nn.Conv, conv_general_dilated=convolution)
"""flax's layer on this convolution."""


def _outputs(spatial: Sequence[int], size: Sequence[int], strides: Sizes, padding: Padding) -> list[int]:
    return [(n + sum(p) - k) // s + 1 for n, k, s, p in zip(spatial, size, strides, padding, strict=True)]


def _convolve(x: Array, kernel: Array, strides: Sizes, padding: Padding, precision: Any) -> Array:
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=LAYOUT, precision=precision)


@partial(jax.checkpoint, static_argnums=(2, 3, 4))  # its views of the input are made again, not kept for the gradient
def _products(
    x: Float[Array, "n h w c"], kernel: Float[Array, "i j c o"], strides: Sizes, padding: Padding, precision: Any
) -> Float[Array, "n h2 w2 o"]:
    """One matrix product for each phase of the vertical stride.

    Horizontal taps lie beside the input channels, [n·rows·w2, j·c], and vertical ones beside the
    output channels, [j·c, i·o], whose rows are then shifted and added. So the transpose, which is the
    kernel's gradient, copies each of input and output gradient a few times, not the input for all
    taps, and its matrix [j·c, i·o] is square enough to be fast.
    """
    (s, t), (rows, columns, channels, features) = strides, kernel.shape
    height, width = _outputs(x.shape[1:3], kernel.shape[:2], strides, padding)
    (top, bottom), beside = padding
    x = jnp.pad(x, ((0, 0), (top, bottom + s), beside, (0, 0)))
    total = jnp.zeros((len(x), height, width, features), x.dtype)
    for phase in range(min(s, rows)):
        taps = len(range(phase, rows, s))
        lines = x[:, phase : phase + s * (height + taps - 2) + 1 : s]
        views = jnp.stack([lines[:, :, j : j + t * (width - 1) + 1 : t] for j in range(columns)], axis=3)
        matrix = kernel[phase::s].transpose(1, 2, 0, 3).reshape(columns * channels, taps * features)
        product = jnp.matmul(views.reshape(-1, columns * channels), matrix, precision=precision)
        product = product.reshape(len(x), height + taps - 1, width, taps, features)
        total = sum((product[:, i : i + height, :, i] for i in range(taps)), start=total)
    return total


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _mixed(x: Array, kernel: Array, strides: Sizes, padding: Padding, precision: Any) -> Array:
    """XLA's convolution, differentiated by the input at stride 1 and by the kernel as matrix products."""
    return _convolve(x, kernel, strides, padding, precision)


@partial(_mixed.defjvp, symbolic_zeros=True)
def _mixed_jvp(strides: Sizes, padding: Padding, precision: Any, primals: tuple, tangents: tuple) -> tuple:
    (x, kernel), (dx, dkernel) = primals, tangents
    y = _mixed(x, kernel, strides, padding, precision)
    dy = jnp.zeros_like(y)
    if not isinstance(dx, SymbolicZero):
        by_input = _mixed if max(strides) == 1 else _by_phases
        dy = by_input(dx, kernel, strides, padding, precision)
    if not isinstance(dkernel, SymbolicZero):
        dy = dy + _products(x, dkernel, strides, padding, precision)
    return y, dy


def _by_phases(
    x: Float[Array, "n h w c"], kernel: Float[Array, "i j c o"], strides: Sizes, padding: Padding, precision: Any
) -> Float[Array, "n h2 w2 o"]:
    """With the pixels of each stride beside one another as channels: a convolution of stride 1.

    Its transpose, the gradient by the input, is one as well, where that of a strided convolution
    multiplies by the zeros between the rows and columns of the output's gradient.
    """
    (s, t), (rows, columns, channels, features) = strides, kernel.shape
    height, width = _outputs(x.shape[1:3], kernel.shape[:2], strides, padding)
    taps = -(-rows // s), -(-columns // t)
    sides = s * (height + taps[0] - 1), t * (width + taps[1] - 1)
    pads = [(before, side - n - before, 0) for (before, _), side, n in zip(padding, sides, x.shape[1:3], strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])  # or crop, what no tap reaches
    x = x.reshape(len(x), sides[0] // s, s, sides[1] // t, t, channels).transpose(0, 1, 3, 2, 4, 5)
    kernel = jnp.pad(kernel, ((0, s * taps[0] - rows), (0, t * taps[1] - columns), (0, 0), (0, 0)))
    kernel = kernel.reshape(taps[0], s, taps[1], t, channels, features).transpose(0, 2, 1, 3, 4, 5)
    x, kernel = x.reshape(*x.shape[:3], -1), kernel.reshape(*taps, -1, features)
    return _mixed(x, kernel, (1, 1), ((0, 0), (0, 0)), precision)


def standardized(kernel: Float[Array, "h w i o"]) -> Float[Array, "h w i o"]:
    """(k − mean) / √(variance + 1e-8) over everything but the output channel."""
    mean, variance = kernel.mean((0, 1, 2), keepdims=True), kernel.var((0, 1, 2), keepdims=True)
    return (kernel - mean) * jax.lax.rsqrt(variance + 1e-8)


class StandardizedConv(nn.Module):
    """A convolution of two axes by the standardized kernel, without bias (Qiao and others 2019)."""

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))

    @nn.compact
    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h2 w2 o"]:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = standardized(self.param("kernel", nn.initializers.lecun_normal(), shape))
        return convolution(x, kernel, self.strides, self.padding, dimension_numbers=LAYOUT)


class Norm(nn.BatchNorm):
    """Batch norm with torch's constants (momentum 0.1 there is 0.9 here)."""

    momentum: float = 0.9
    epsilon: float = 1e-5


def drop_path(rate: float, train: bool) -> nn.Dropout:
    """Leaves an image's residual branch out with a probability, in training mode, and divides it by 1 − p else.

    Stochastic depth (Huang and others 2016); its mean over what it leaves out is the branch, which evaluation mode has.
    """
    return nn.Dropout(rate, broadcast_dims=(1, 2, 3), deterministic=not train)


def drop_path_rates(rate: float, stages: Sequence[int]) -> list[tuple[float, ...]]:
    """The rate of every block, stage by stage: from 0 in the first linearly up to `rate` in the last, as timm has it.

    Raises:
      LinftError: a rate outside [0, 1).

    Example:
      >>> drop_path_rates(0.75, (1, 3))
      [(0.0,), (0.25, 0.5, 0.75)]
    """
    if not 0 <= rate < 1:
        raise LinftError(f"drop_path_rate is {rate}; it must lie in [0, 1)")
    rates = [rate * i / max(sum(stages) - 1, 1) for i in range(sum(stages))]
    return [tuple(rates[sum(stages[:i]) : sum(stages[: i + 1])]) for i in range(len(stages))]


def in_stages(*stages: Sequence[str], closing: str | None = None) -> Groups:
    """Stem and head, and between them the blocks of every stage, by the names of their modules.

    Args:
      stages: names of blocks, stage after stage.
      closing: a layer after the last block, which counts with it.

    Example:
      >>> for group in in_stages(["block0"], numbered("block", 2), closing="norm").items():
      ...     print(*group)
      stem ('stem',)
      stage1.block0 ('stage1/block0',)
      stage2.block0 ('stage2/block0',)
      stage2.block1 ('stage2/block1', 'stage2/norm')
      head ('head',)
    """
    names = [f"stage{i}.{block}" for i, blocks in enumerate(stages, 1) for block in blocks]
    groups: dict[str, tuple[str, ...]] = {name: (name.replace(".", "/"),) for name in ("stem", *names, "head")}
    if closing is not None:
        groups[names[-1]] += (f"stage{len(stages)}/{closing}",)
    return groups


def numbered(name: str, count: int) -> list[str]:
    """Names of modules, from 0 on."""
    return [f"{name}{i}" for i in range(count)]
