"""AlexNet in the one-tower form of Krizhevsky 2014, as torchvision has it.

Five convolutions with biases, max pools where the side halves, and a perceptron with dropout on 6×6
averages. Pixels are flattened channel by channel, as torch's weights want them.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from linft.core.trees import Groups
from linft.models.architectures.layers import Conv, in_stages


class Convolutions(nn.Module):
    """3×3 (or larger) convolutions of one stage and the max pool that ends it."""

    widths: tuple[int, ...]
    side: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
        half = self.side // 2
        for i, width in enumerate(self.widths):
            padding = ((half, half), (half, half))
            x = nn.relu(Conv(width, (self.side, self.side), padding=padding, name=f"conv{i + 1}")(x))
        return nn.max_pool(x, (3, 3), (2, 2))


class Stem(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h8 w8 d"]:
        x = Conv(self.width, (11, 11), (4, 4), padding=((2, 2), (2, 2)), name="conv")(x)
        return nn.max_pool(nn.relu(x), (3, 3), (2, 2))


class Perceptron(nn.Module):
    """Two hidden layers, with dropout before each."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "n d"], train: bool) -> Float[Array, "n width"]:
        for i in range(2):
            x = nn.Dropout(0.5, deterministic=not train)(x)
            x = nn.relu(nn.Dense(self.width, name=f"dense{i + 1}")(x))
        return x


def adaptive_pool(x: Float[Array, "n h w c"], side: int) -> Float[Array, "n side side c"]:
    """Averages over side × side windows that cover the image: the i-th runs from ⌊i h/side⌋ to ⌈(i+1) h/side⌉."""
    for axis in (1, 2):
        size = x.shape[axis]
        windows = [(i * size // side, -(-(i + 1) * size // side)) for i in range(side)]
        x = jnp.stack([jax.lax.slice_in_dim(x, *w, axis=axis).mean(axis) for w in windows], axis)
    return x


class AlexNet(nn.Module):
    """A stem, two stages of convolutions and one of dense layers."""

    num_classes: int
    width: int = 64

    @property
    def layer_groups(self) -> Groups:
        return in_stages(["conv1"], ["conv1", "conv2", "conv3"], ["dense1", "dense2"])

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool = False) -> Float[Array, "n classes"]:
        x = Stem(self.width, name="stem")(x)
        x = Convolutions((3 * self.width,), 5, name="stage1")(x)
        x = Convolutions((6 * self.width, 4 * self.width, 4 * self.width), 3, name="stage2")(x)
        x = adaptive_pool(x, 6).transpose(0, 3, 1, 2).reshape(len(x), -1)
        x = Perceptron(64 * self.width, name="stage3")(x, train)
        return nn.Dense(self.num_classes, name="head")(x)
