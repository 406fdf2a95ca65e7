"""Importers of timm's own networks: pre-activation ResNets, MobileNet v1, Inception v4."""

import re
from typing import Any

from linft.zoo.importers.bit_npz import BIT_RESNETS
from linft.zoo.importers.importer import Importer, blocks_of, named, torch_layout, torch_path
from linft.zoo.importers.timm_config import about
from linft.zoo.tensors import Tensors

RESNETS_V2 = {(3, 4, 6, 3): "resnetv2_50", (3, 4, 23, 3): "resnetv2_101"}


def resnet_v2_architecture(tensors: Tensors) -> tuple[str, dict[str, Any]] | None:
    """The pre-activation ResNet, with batch norm or BiT's with group norm, whose depth and width the shapes show."""
    if not {"stem.conv.weight", "norm.weight", "stages.0.blocks.0.conv3.weight"} <= tensors.keys():
        return None
    blocks = blocks_of(tensors, r"stages\.(\d)\.blocks\.(\d+)\.")
    names = RESNETS_V2 if "norm.running_var" in tensors else BIT_RESNETS
    return named(names, blocks, tensors.shapes["stem.conv.weight"][0])


def resnet_v2_module(name: str) -> str:
    """Our name of a module: stages.1.blocks.0.norm1 is stage2/block0/norm1; the last norm is in the last stage."""
    name = {"stem.conv": "stem/conv", "norm": "stage4/norm", "head.fc": "head"}.get(name, name)
    name = re.sub(r"^stages\.(\d)\.blocks\.(\d+)\.", lambda m: f"stage{int(m[1]) + 1}/block{m[2]}/", name)
    return name.replace("downsample.conv", "shortcut_conv")


RESNET_V2 = Importer(resnet_v2_architecture, torch_path(resnet_v2_module), torch_layout, about)


def mobilenet_architecture(tensors: Tensors) -> tuple[str, dict[str, Any]] | None:
    """MobileNet v1, whose later relatives have the same keys and a second pointwise convolution."""
    if not {"conv_stem.weight", "blocks.4.1.conv_dw.weight", "blocks.4.1.conv_pw.weight"} <= tensors.keys():
        return None
    if any(".conv_pwl." in key for key in tensors):
        return None
    width = tensors.shapes["conv_stem.weight"][0]
    return "mobilenet_v1", {} if width == 32 else {"width": width}


def mobilenet_module(name: str) -> str:
    """Our name of a module: blocks.1.0.conv_dw is stage2/block0/depthwise."""
    name = re.sub(r"^blocks\.(\d)\.(\d)\.", lambda m: f"stage{int(m[1]) + 1}/block{m[2]}/", name)
    name = {"conv_stem": "stem/conv", "bn1": "stem/norm", "classifier": "head"}.get(name, name)
    name = name.replace("conv_dw", "depthwise").replace("conv_pw", "pointwise")
    return re.sub(r"/bn(\d)$", r"/norm\1", name)


MOBILENET = Importer(mobilenet_architecture, torch_path(mobilenet_module), torch_layout, about)


# timm numbers layers and blocks through; only some of those in the stem have no branches in their names.
INCEPTION_STEM = {
    **{f"features.{i}": f"stem/block0/branch0_{i}" for i in range(3)},
    "features.3.conv": "stem/block1/branch1_0",
    "features.5.conv": "stem/block3/branch0_0",
}
INCEPTION_BLOCKS = {"4": "stem/block2"} | {
    str(first + i): f"{stage}/block{i}"
    for stage, first, blocks in (("stage1", 6, 4), ("stage2", 10, 8), ("stage3", 18, 4))
    for i in range(blocks)
}


def inception_architecture(tensors: Tensors) -> tuple[str, dict[str, Any]] | None:
    """Inception v4, and how wide."""
    if not {"features.0.conv.weight", "features.21.branch1_1a.conv.weight"} <= tensors.keys():
        return None
    width = tensors.shapes["features.0.conv.weight"][0]
    return "inception_v4", {} if width == 32 else {"width": width}


def inception_module(name: str) -> str:
    """Our name of a module: features.7.branch1.0.bn is stage1/block1/branch1_0/norm."""
    layer, _, kind = name.rpartition(".")
    found = re.fullmatch(r"features\.(\d+)\.branch(\d)(?:[._](\w+))?", layer)
    if found and found[1] in INCEPTION_BLOCKS:
        layer = f"{INCEPTION_BLOCKS[found[1]]}/branch{found[2]}_{found[3] or 0}"
    elif layer not in INCEPTION_STEM:
        return "head" if name == "last_linear" else name
    return f"{INCEPTION_STEM.get(layer, layer)}/{'norm' if kind == 'bn' else kind}"


INCEPTION = Importer(inception_architecture, torch_path(inception_module), torch_layout, about)
