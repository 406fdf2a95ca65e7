"""The ResNets of He and others 2016 for 32×32 images: 6n+2 layers, widths 16, 32, 64.

Option A joins a stage by every second pixel and zero channels, option B by a 1×1 convolution.
"""

from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from linft.core.trees import Groups
from linft.models.architectures.layers import Conv, Norm, drop_path, drop_path_rates, in_stages, numbered

conv3x3 = partial(Conv, kernel_size=(3, 3), padding=((1, 1), (1, 1)), use_bias=False)


class Stem(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h w d"]:
        x = conv3x3(self.width, name="conv")(x)
        return nn.relu(Norm(not train, name="norm")(x))


class Block(nn.Module):
    width: int
    stride: int
    shortcut: Literal["a", "b"]
    drop: float

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 d"]:
        y = conv3x3(self.width, strides=(self.stride, self.stride), name="conv1")(x)
        y = nn.relu(Norm(not train, name="norm1")(y))
        y = Norm(not train, name="norm2")(conv3x3(self.width, name="conv2")(y))
        y = drop_path(self.drop, train)(y)
        if x.shape != y.shape:
            x = self.join(x, train)
        return nn.relu(x + y)

    def join(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 d"]:
        if self.shortcut == "b":
            strides = (self.stride, self.stride)
            x = Conv(self.width, (1, 1), strides, use_bias=False, padding="VALID", name="shortcut_conv")(x)
            return Norm(not train, name="shortcut_norm")(x)
        missing = self.width - x.shape[-1]
        x = x[:, :: self.stride, :: self.stride]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))


class Stage(nn.Module):
    drops: tuple[float, ...]
    """Drop path's rate in every block."""
    width: int
    stride: int
    shortcut: Literal["a", "b"]

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 d"]:
        for i, drop in enumerate(self.drops):
            x = Block(self.width, self.stride if i == 0 else 1, self.shortcut, drop, name=f"block{i}")(x, train)
        return x


class CifarResNet(nn.Module):
    """6·blocks + 2 layers."""

    num_classes: int
    blocks: int
    width: int = 16
    shortcut: Literal["a", "b"] = "a"
    drop_path_rate: float = 0.0
    """Of the last block in training mode, the others' rising up to it."""

    @property
    def layer_groups(self) -> Groups:
        return in_stages(*[numbered("block", self.blocks)] * 3)

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool = False) -> Float[Array, "n classes"]:
        x = Stem(self.width, name="stem")(x, train)
        for i, drops in enumerate(drop_path_rates(self.drop_path_rate, [self.blocks] * 3)):
            stride = 1 if i == 0 else 2
            x = Stage(drops, self.width * 2**i, stride, self.shortcut, name=f"stage{i + 1}")(x, train)
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))
