"""The wide residual networks of Zagoruyko and Komodakis 2016 for 32×32 images: WRN-(6n+4)-k, pre-activation."""

from functools import partial

import flax.linen as nn
from jaxtyping import Array, Float

from linft.core.trees import Groups
from linft.models.architectures.layers import Conv, Norm, drop_path, drop_path_rates, in_stages, numbered

conv3x3 = partial(Conv, kernel_size=(3, 3), padding=((1, 1), (1, 1)), use_bias=False)


class Stem(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w d"]:
        return conv3x3(self.width, name="conv")(x)


class Block(nn.Module):
    """Two 3×3 convolutions, each after norm and ReLU, as is the shortcut's 1×1 where the shape changes."""

    width: int
    stride: int
    drop: float

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 d"]:
        strides = (self.stride, self.stride)
        active = nn.relu(Norm(not train, name="norm1")(x))
        y = conv3x3(self.width, strides=strides, name="conv1")(active)
        y = conv3x3(self.width, name="conv2")(nn.relu(Norm(not train, name="norm2")(y)))
        if x.shape != y.shape:
            x = Conv(self.width, (1, 1), strides, use_bias=False, padding="VALID", name="shortcut_conv")(active)
        return x + drop_path(self.drop, train)(y)


class Stage(nn.Module):
    drops: tuple[float, ...]
    """Drop path's rate in every block."""
    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 d"]:
        for i, drop in enumerate(self.drops):
            x = Block(self.width, self.stride if i == 0 else 1, drop, name=f"block{i}")(x, train)
        return x


class LastStage(Stage):
    """Its norm and ReLU come after the sum of the last block."""

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 d"]:
        return nn.relu(Norm(not train, name="norm")(super().__call__(x, train)))


class WideResNet(nn.Module):
    """Three stages of `blocks` blocks, `factor` times as wide as the stem."""

    num_classes: int
    blocks: int
    factor: int
    width: int = 16
    drop_path_rate: float = 0.0
    """Of the last block in training mode, the others' rising up to it."""

    @property
    def layer_groups(self) -> Groups:
        return in_stages(*[numbered("block", self.blocks)] * 3, closing="norm")

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool = False) -> Float[Array, "n classes"]:
        x = Stem(self.width, name="stem")(x)
        width = self.width * self.factor
        first, second, last = drop_path_rates(self.drop_path_rate, [self.blocks] * 3)
        x = Stage(first, width, 1, name="stage1")(x, train)
        x = Stage(second, 2 * width, 2, name="stage2")(x, train)
        x = LastStage(last, 4 * width, 2, name="stage3")(x, train)
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))
