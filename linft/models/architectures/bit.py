"""Big Transfer (Kolesnikov and others 2020): ResNet V2 with standardized kernels and group norm, no batch norm."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from linft.models.architectures.resnet_v2 import ResNetV2
from linft.models.architectures.standardized_conv import StandardizedConv


def group_norm(train: bool, name: str, groups: int) -> nn.Module:
    """The same in training and in evaluation.

    Its variance is the mean of squared deviations: E x² − (E x)² would cancel digits where the sum of
    many blocks has drifted from zero.
    """
    return nn.GroupNorm(groups, epsilon=1e-5, use_fast_variance=False, name=name)


def zero_padded_max_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """Zeros around the image take part in the maximum: there was no ReLU before it."""
    return nn.max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2))


def bit(num_classes: int, blocks: tuple[int, ...], width: int = 64, groups: int = 32) -> ResNetV2:
    """A BiT network; `groups` are those of every norm."""
    norm = partial(group_norm, groups=groups)
    return ResNetV2(num_classes, blocks, width, StandardizedConv, norm, zero_padded_max_pool)
