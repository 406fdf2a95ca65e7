"""The DenseNets of Huang and others 2017 for 224×224 images, with bottlenecks and compression (DenseNet-BC).

Every layer appends `growth` channels to its input; a transition halves channels and sides.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from linft.core.trees import Groups
from linft.models.architectures.layers import Conv, Norm, in_stages, numbered
from linft.models.architectures.resnet import Stem

conv = partial(Conv, use_bias=False)


class DenseLayer(nn.Module):
    """A 1×1 convolution to `bottleneck` times the growth, then a 3×3 one."""

    growth: int
    bottleneck: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h w d"]:
        y = nn.relu(Norm(not train, name="norm1")(x))
        y = conv(self.bottleneck * self.growth, (1, 1), name="conv1")(y)
        y = nn.relu(Norm(not train, name="norm2")(y))
        y = conv(self.growth, (3, 3), padding=((1, 1), (1, 1)), name="conv2")(y)
        return jnp.concatenate([x, y], axis=-1)


class Transition(nn.Module):
    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 d"]:
        y = nn.relu(Norm(not train, name="norm")(x))
        return nn.avg_pool(conv(x.shape[-1] // 2, (1, 1), name="conv")(y), (2, 2), (2, 2))


class Stage(nn.Module):
    """Dense layers, opened by a transition but for the first stage; the last one is closed by a norm."""

    index: int
    layers: int
    growth: int
    bottleneck: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 d"]:
        if self.index > 0:
            x = Transition(name="transition")(x, train)
        for i in range(self.layers):
            x = DenseLayer(self.growth, self.bottleneck, name=f"layer{i}")(x, train)
        return nn.relu(Norm(not train, name="norm")(x)) if self.index == 3 else x


class DenseNet(nn.Module):
    """Four stages of so many layers each, after the stem of a ResNet."""

    num_classes: int
    layers: tuple[int, ...]
    growth: int = 32
    width: int = 64
    bottleneck: int = 4

    @property
    def layer_groups(self) -> Groups:
        first, *others = (numbered("layer", layers) for layers in self.layers)
        return in_stages(first, *(["transition", *layers] for layers in others), closing="norm")

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool = False) -> Float[Array, "n classes"]:
        x = Stem(self.width, name="stem")(x, train)
        for i, layers in enumerate(self.layers):
            x = Stage(i, layers, self.growth, self.bottleneck, name=f"stage{i + 1}")(x, train)
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))
