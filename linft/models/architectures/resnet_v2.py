"""The pre-activation ResNets of He and others 2016 (V2) for 224×224 images, the stride on the 3×3 convolution.

Big Transfer (BiT, Kolesnikov and others 2020) has standardized kernels and group norm in them, no batch norm.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from linft.core.trees import Groups
from linft.models.architectures.layers import (
    Conv,
    Norm,
    StandardizedConv,
    drop_path,
    drop_path_rates,
    in_stages,
    numbered,
)

conv = partial(Conv, use_bias=False)
max_pool = partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))  # pyright: ignore


def batch_norm(train: bool, name: str) -> nn.Module:
    """The norm of the paper."""
    return Norm(not train, name=name)


class Stem(nn.Module):
    """Without norm and activation, which the first block begins with."""

    width: int
    conv: Callable[..., nn.Module]
    pool: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h4 w4 d"]:
        return self.pool(self.conv(self.width, (7, 7), (2, 2), padding=((3, 3), (3, 3)), name="conv")(x))


class Bottleneck(nn.Module):
    """Norm and ReLU before each convolution, and before the shortcut's where the shape changes."""

    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[[bool, str], nn.Module]
    drop: float

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 d"]:
        strides, valid = (self.stride, self.stride), ((0, 0), (0, 0))
        active = nn.relu(self.norm(train, "norm1")(x))
        y = self.conv(self.width, (1, 1), padding=valid, name="conv1")(active)
        y = nn.relu(self.norm(train, "norm2")(y))
        y = self.conv(self.width, (3, 3), strides, padding=((1, 1), (1, 1)), name="conv2")(y)
        y = nn.relu(self.norm(train, "norm3")(y))
        y = self.conv(4 * self.width, (1, 1), padding=valid, name="conv3")(y)
        if x.shape != y.shape:
            x = self.conv(4 * self.width, (1, 1), strides, padding=valid, name="shortcut_conv")(active)
        return x + drop_path(self.drop, train)(y)


class Stage(nn.Module):
    drops: tuple[float, ...]
    """Drop path's rate in every block."""
    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[[bool, str], nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 d"]:
        for i, drop in enumerate(self.drops):
            stride = self.stride if i == 0 else 1
            x = Bottleneck(self.width, stride, self.conv, self.norm, drop, name=f"block{i}")(x, train)
        return x


class LastStage(Stage):
    """Its norm and ReLU come after the sum of the last block."""

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 d"]:
        return nn.relu(self.norm(train, "norm")(super().__call__(x, train)))


class ResNetV2(nn.Module):
    """Stages of pre-activation bottlenecks, of any convolution and norm."""

    num_classes: int
    blocks: tuple[int, ...]
    width: int = 64
    conv: Callable[..., nn.Module] = conv
    norm: Callable[[bool, str], nn.Module] = batch_norm
    """(train, name) -> layer."""
    pool: Callable[[Array], Array] = max_pool
    drop_path_rate: float = 0.0
    """Of the last block in training mode, the others' rising up to it."""

    @property
    def layer_groups(self) -> Groups:
        return in_stages(*(numbered("block", blocks) for blocks in self.blocks), closing="norm")

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool = False) -> Float[Array, "n classes"]:
        x = Stem(self.width, self.conv, self.pool, name="stem")(x)
        for i, drops in enumerate(drop_path_rates(self.drop_path_rate, self.blocks)):
            kind = LastStage if i == len(self.blocks) - 1 else Stage
            stride = 1 if i == 0 else 2
            x = kind(drops, self.width * 2**i, stride, self.conv, self.norm, name=f"stage{i + 1}")(x, train)
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


def group_norm(train: bool, name: str, groups: int) -> nn.Module:
    """The same in training and in evaluation.

    Its variance is the mean of squared deviations: E x² − (E x)² would cancel digits where the sum of
    many blocks has drifted from zero.
    """
    return nn.GroupNorm(groups, epsilon=1e-5, use_fast_variance=False, name=name)


def zero_padded_max_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """Zeros around the image take part in the maximum: there was no ReLU before it."""
    return nn.max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2))


def bit(
    num_classes: int, blocks: tuple[int, ...], width: int = 64, groups: int = 32, drop_path_rate: float = 0.0
) -> ResNetV2:
    """A BiT network; `groups` are those of every norm."""
    norm = partial(group_norm, groups=groups)
    return ResNetV2(num_classes, blocks, width, StandardizedConv, norm, zero_padded_max_pool, drop_path_rate)
