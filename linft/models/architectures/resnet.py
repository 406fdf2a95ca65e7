"""The ResNets of He and others 2015 for 224×224 images, 18 to 152 layers, and the wide ones of Zagoruyko 2016.

In V1 a bottleneck's stride is on its first 1×1 convolution; in V1.5, as torchvision and timm have it,
on its 3×3 convolution.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import flax.linen as nn
from jaxtyping import Array, Float

from linft.core.trees import Groups
from linft.models.architectures.layers import Conv, Norm, drop_path, drop_path_rates, in_stages, numbered

conv = partial(Conv, use_bias=False)


class Stem(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h4 w4 d"]:
        x = conv(self.width, (7, 7), (2, 2), padding=((3, 3), (3, 3)), name="conv")(x)
        x = nn.relu(Norm(not train, name="norm")(x))
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # pyright: ignore


class BasicBlock(nn.Module):
    width: int
    stride: int
    drop: float

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 d"]:
        strides, pad = (self.stride, self.stride), ((1, 1), (1, 1))
        y = nn.relu(Norm(not train, name="norm1")(conv(self.width, (3, 3), strides, padding=pad, name="conv1")(x)))
        y = Norm(not train, name="norm2")(conv(self.width, (3, 3), padding=pad, name="conv2")(y))
        return _joined(x, y, strides, self.drop, train)


class Bottleneck(nn.Module):
    width: int
    stride: int
    drop: float
    factor: int = 1
    """Of the width between the outer convolutions; 2 in the wide networks."""
    version: Literal["v1", "v1.5"] = "v1.5"

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 d"]:
        strides, pad = (self.stride, self.stride), ((1, 1), (1, 1))
        first, second = (strides, (1, 1)) if self.version == "v1" else ((1, 1), strides)
        inner = self.width * self.factor
        y = nn.relu(Norm(not train, name="norm1")(conv(inner, (1, 1), first, padding="VALID", name="conv1")(x)))
        y = nn.relu(Norm(not train, name="norm2")(conv(inner, (3, 3), second, padding=pad, name="conv2")(y)))
        y = Norm(not train, name="norm3")(conv(self.width * 4, (1, 1), name="conv3")(y))
        return _joined(x, y, strides, self.drop, train)


def _joined(x: Array, y: Array, strides: tuple[int, int], drop: float, train: bool) -> Array:
    """A branch and its shortcut, x itself or a 1×1 convolution where the shape changes (called inside a block)."""
    y = drop_path(drop, train)(y)
    if x.shape != y.shape:
        x = conv(y.shape[-1], (1, 1), strides, padding="VALID", name="shortcut_conv")(x)
        x = Norm(not train, name="shortcut_norm")(x)
    return nn.relu(x + y)


class Stage(nn.Module):
    block: Callable[..., nn.Module]
    drops: tuple[float, ...]
    """Drop path's rate in every block."""
    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 d"]:
        for i, drop in enumerate(self.drops):
            x = self.block(self.width, self.stride if i == 0 else 1, drop, name=f"block{i}")(x, train)
        return x


class ResNet(nn.Module):
    """Four stages of blocks after a 7×7 stem and a max pool."""

    num_classes: int
    blocks: tuple[int, ...]
    block: Callable[..., nn.Module]
    width: int = 64
    drop_path_rate: float = 0.0
    """Of the last block in training mode, the others' rising up to it."""

    @property
    def layer_groups(self) -> Groups:
        return in_stages(*(numbered("block", blocks) for blocks in self.blocks))

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool = False) -> Float[Array, "n classes"]:
        x = Stem(self.width, name="stem")(x, train)
        for i, drops in enumerate(drop_path_rates(self.drop_path_rate, self.blocks)):
            stage = Stage(self.block, drops, self.width * 2**i, 1 if i == 0 else 2, name=f"stage{i + 1}")
            x = stage(x, train)
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))
