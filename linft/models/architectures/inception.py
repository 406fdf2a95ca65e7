"""Inception v4 of Szegedy and others 2016, for 299×299 images, as a table.

A block is a tuple of branches, whose outputs are concatenated. A branch is a sequence of layers: a
convolution with batch norm, a pool, or a tuple of convolutions side by side, concatenated too.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from linft.core.trees import Groups
from linft.models.architectures.layers import Conv, Norm, in_stages, numbered


class ConvSpec(NamedTuple):
    width: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: str = "SAME"


conv1x1 = partial(ConvSpec, kernel=(1, 1))
conv3x3 = partial(ConvSpec, kernel=(3, 3))
conv1x3 = partial(ConvSpec, kernel=(1, 3))
conv3x1 = partial(ConvSpec, kernel=(3, 1))
conv1x7 = partial(ConvSpec, kernel=(1, 7))
conv7x1 = partial(ConvSpec, kernel=(7, 1))
trim = partial(ConvSpec, kernel=(3, 3), padding="VALID")
halve = partial(ConvSpec, kernel=(3, 3), stride=2, padding="VALID")
max_pool = partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2))
# The average of the pixels that there are: padding does not count.
avg_pool = partial(nn.avg_pool, window_shape=(3, 3), padding="SAME", count_include_pad=False)

BranchLayer = ConvSpec | Callable[[Array], Array] | tuple[ConvSpec, ConvSpec]
Branches = tuple[tuple[BranchLayer, ...], ...]

STEM: tuple[Branches, ...] = (
    ((halve(32), trim(32), conv3x3(64)),),
    ((max_pool,), (halve(96),)),
    ((conv1x1(64), trim(96)), (conv1x1(64), conv1x7(64), conv7x1(64), trim(96))),
    ((halve(192),), (max_pool,)),
)
A: Branches = (
    (conv1x1(96),),
    (conv1x1(64), conv3x3(96)),
    (conv1x1(64), conv3x3(96), conv3x3(96)),
    (avg_pool, conv1x1(96)),
)
REDUCTION_A: Branches = (
    (halve(384),),
    (conv1x1(192), conv3x3(224), halve(256)),
    (max_pool,),
)
B: Branches = (
    (conv1x1(384),),
    (conv1x1(192), conv1x7(224), conv7x1(256)),
    (conv1x1(192), conv7x1(192), conv1x7(224), conv7x1(224), conv1x7(256)),
    (avg_pool, conv1x1(128)),
)
REDUCTION_B: Branches = (
    (conv1x1(192), halve(192)),
    (conv1x1(256), conv1x7(256), conv7x1(320), halve(320)),
    (max_pool,),
)
C: Branches = (
    (conv1x1(256),),
    (conv1x1(384), (conv1x3(256), conv3x1(256))),
    (conv1x1(384), conv3x1(448), conv1x3(512), (conv1x3(256), conv3x1(256))),
    (avg_pool, conv1x1(256)),
)


class ConvNorm(nn.Module):
    """A row of the table: convolution, batch norm, ReLU."""

    row: ConvSpec
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 d"]:
        channels, strides = self.row.width * self.width // 32, (self.row.stride, self.row.stride)
        x = Conv(channels, self.row.kernel, strides, self.row.padding, use_bias=False, name="conv")(x)
        return nn.relu(Norm(not train, epsilon=1e-3, name="norm")(x))


class Block(nn.Module):
    branches: Branches
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 d"]:
        outputs = [self.branch(x, train, layers, f"branch{i}") for i, layers in enumerate(self.branches)]
        return jnp.concatenate(outputs, -1)

    def branch(self, x: Array, train: bool, layers: tuple[BranchLayer, ...], name: str) -> Array:
        for i, layer in enumerate(layers):
            if isinstance(layer, ConvSpec):
                x = ConvNorm(layer, self.width, name=f"{name}_{i}")(x, train)
            elif isinstance(layer, tuple):
                sides = zip(layer, "ab", strict=True)
                x = jnp.concatenate(
                    [ConvNorm(row, self.width, name=f"{name}_{i}{side}")(x, train) for row, side in sides], -1
                )
            else:
                x = layer(x)
        return x


class Stage(nn.Module):
    blocks: tuple[Branches, ...]
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 d"]:
        for i, branches in enumerate(self.blocks):
            x = Block(branches, self.width, name=f"block{i}")(x, train)
        return x


class InceptionV4(nn.Module):
    """A stem, then blocks A at 35×35, B at 17×17 and C at 8×8; widths scale with the first."""

    num_classes: int
    width: int = 32
    blocks: tuple[int, ...] = (4, 7, 3)

    @property
    def layer_groups(self) -> Groups:
        """Of 14 blocks, 22 layers below the head, as published implementations have them: six are in the stem."""
        a, b, c = self.blocks
        stem = {f"stem.conv{i}": (f"stem/block0/branch0_{i}",) for i in range(3)}
        stem |= {f"stem.block{i}": (f"stem/block{i}",) for i in range(1, len(STEM))}
        above = in_stages(numbered("block", a), numbered("block", 1 + b), numbered("block", 1 + c))
        return stem | {group: paths for group, paths in above.items() if group != "stem"}

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool = False) -> Float[Array, "n classes"]:
        a, b, c = self.blocks
        x = Stage(STEM, self.width, name="stem")(x, train)
        x = Stage((A,) * a, self.width, name="stage1")(x, train)
        x = Stage((REDUCTION_A, *(B,) * b), self.width, name="stage2")(x, train)
        x = Stage((REDUCTION_B, *(C,) * c), self.width, name="stage3")(x, train)
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))
