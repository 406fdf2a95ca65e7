"""The DenseNets of Huang and others 2017 for 32×32 images, without bottlenecks: every layer adds `growth` channels.

DenseNet-40 has three stages of twelve layers; after the first two a 1×1 convolution and an average pool.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from linft.core.trees import Groups
from linft.models.architectures.layers import Conv, Norm, in_stages, numbered

conv3x3 = partial(Conv, kernel_size=(3, 3), padding=((1, 1), (1, 1)), use_bias=False)


class Stem(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h w d"]:
        return conv3x3(self.width, name="conv")(x)


class DenseLayer(nn.Module):
    growth: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h w d"]:
        y = nn.relu(Norm(not train, name="norm")(x))
        return jnp.concatenate([x, conv3x3(self.growth, name="conv")(y)], axis=-1)


class Transition(nn.Module):
    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c"]:
        y = nn.relu(Norm(not train, name="norm")(x))
        y = Conv(x.shape[-1], (1, 1), use_bias=False, padding="VALID", name="conv")(y)
        return nn.avg_pool(y, (2, 2), (2, 2))


class Stage(nn.Module):
    """Dense layers, opened by a transition but for the first stage; the last one is closed by a norm."""

    index: int
    layers: int
    growth: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 d"]:
        if self.index > 0:
            x = Transition(name="transition")(x, train)
        for i in range(self.layers):
            x = DenseLayer(self.growth, name=f"layer{i}")(x, train)
        return nn.relu(Norm(not train, name="norm")(x)) if self.index == 2 else x


class CifarDenseNet(nn.Module):
    """3·layers + 4 layers."""

    num_classes: int
    layers: int
    growth: int = 12
    width: int = 16

    @property
    def layer_groups(self) -> Groups:
        layers = numbered("layer", self.layers)
        return in_stages(layers, *[["transition", *layers]] * 2, closing="norm")

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool = False) -> Float[Array, "n classes"]:
        x = Stem(self.width, name="stem")(x, train)
        for i in range(3):
            x = Stage(i, self.layers, self.growth, name=f"stage{i + 1}")(x, train)
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))
