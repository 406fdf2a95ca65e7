"""Convolutions whose kernel is standardized, output channel by output channel (Qiao and others 2019)."""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from linft.models.architectures.convolution import LAYOUT, convolution


def standardized(kernel: Float[Array, "h w i o"]) -> Float[Array, "h w i o"]:
    """(k − mean) / √(variance + 1e-8) over everything but the output channel."""
    mean, variance = kernel.mean((0, 1, 2), keepdims=True), kernel.var((0, 1, 2), keepdims=True)
    return (kernel - mean) * jax.lax.rsqrt(variance + 1e-8)


class StandardizedConv(nn.Module):
    """A convolution of two axes by the standardized kernel, without bias."""

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))

    @nn.compact
    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h2 w2 o"]:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = standardized(self.param("kernel", nn.initializers.lecun_normal(), shape))
        return convolution(x, kernel, self.strides, self.padding, dimension_numbers=LAYOUT)
