"""MobileNet v1 of Howard and others 2017: depthwise 3×3 and pointwise 1×1 convolutions in turn, no shortcuts."""

from functools import partial

import flax.linen as nn
from jaxtyping import Array, Float

from linft.core.trees import Groups
from linft.models.architectures.layers import Conv, Norm, in_stages, numbered

conv = partial(Conv, use_bias=False)
conv3x3 = partial(conv, kernel_size=(3, 3), padding=((1, 1), (1, 1)))


class Stem(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 d"]:
        x = conv3x3(self.width, strides=(2, 2), name="conv")(x)
        return nn.relu6(Norm(not train, name="norm")(x))


class Block(nn.Module):
    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 d"]:
        channels, strides = x.shape[-1], (self.stride, self.stride)
        x = conv3x3(channels, strides=strides, feature_group_count=channels, name="depthwise")(x)
        x = nn.relu6(Norm(not train, name="norm1")(x))
        x = conv(self.width, (1, 1), name="pointwise")(x)
        return nn.relu6(Norm(not train, name="norm2")(x))


class Stage(nn.Module):
    blocks: int
    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 d"]:
        for i in range(self.blocks):
            x = Block(self.width, self.stride if i == 0 else 1, name=f"block{i}")(x, train)
        return x


class MobileNetV1(nn.Module):
    """Five stages; the width doubles with every one, and a first width of 32 is the multiplier 1.0."""

    num_classes: int
    width: int = 32
    blocks: tuple[int, ...] = (1, 2, 2, 6, 2)

    @property
    def layer_groups(self) -> Groups:
        return in_stages(*(numbered("block", blocks) for blocks in self.blocks))

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool = False) -> Float[Array, "n classes"]:
        x = Stem(self.width, name="stem")(x, train)
        for i, blocks in enumerate(self.blocks):
            x = Stage(blocks, self.width * 2 ** (i + 1), 1 if i == 0 else 2, name=f"stage{i + 1}")(x, train)
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))
