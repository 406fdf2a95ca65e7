"""Importer of the `.npz` files that Google published with Big Transfer (BiT), whose layout is Flax's."""

import re
from typing import Any

from linft.zoo.importers.importer import Importer, blocks_of, named
from linft.zoo.tensors import Tensors

BIT_RESNETS = {(3, 4, 6, 3): "resnetv2_50x1_bit", (3, 4, 23, 3): "resnetv2_101x1_bit"}
STEM = "resnet/root_block/standardized_conv2d/kernel"
CONVOLUTION = {"a": "conv1", "b": "conv2", "c": "conv3", "a/proj": "shortcut_conv"}
LEAVES = {"gamma": "scale", "beta": "bias"}
OUTSIDE_BLOCKS = {
    STEM: "params/stem/conv/kernel",
    "resnet/group_norm/gamma": "params/stage4/norm/scale",
    "resnet/group_norm/beta": "params/stage4/norm/bias",
    "resnet/head/conv2d/kernel": "params/head/kernel",
    "resnet/head/conv2d/bias": "params/head/bias",
}


def architecture(tensors: Tensors) -> tuple[str, dict[str, Any]] | None:
    """The network whose depth and width the keys and shapes show."""
    if STEM not in tensors:
        return None
    return named(BIT_RESNETS, blocks_of(tensors, r"resnet/block(\d)/unit(\d+)/"), tensors.shapes[STEM][-1])


def path(key: str) -> str | None:
    """Our path: resnet/block2/unit01/a/group_norm/gamma is params/stage2/block0/norm1/scale."""
    found = re.fullmatch(r"resnet/block(\d)/unit(\d+)/([abc]|a/proj)/(group_norm|standardized_conv2d)/(\w+)", key)
    if found is None:
        return OUTSIDE_BLOCKS.get(key, f"params/{key}")
    stage, unit, place, kind, leaf = found.groups()
    layer = CONVOLUTION[place] if kind == "standardized_conv2d" else CONVOLUTION[place].replace("conv", "norm")
    return f"params/stage{stage}/block{int(unit) - 1}/{layer}/{LEAVES.get(leaf, leaf)}"


def about(tensors: Tensors) -> dict[str, Any]:
    """The files tell nothing but their arrays."""
    return {"source": {"from": "google-research/big_transfer"}}


BIT_NPZ = Importer(architecture, path, lambda array: array, about)
