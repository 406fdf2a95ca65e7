"""Importer of timm's pre-activation ResNets: with batch norm, or BiT's with group norm."""

import re
from typing import Any

from linft.zoo.formats.tensors import Tensors
from linft.zoo.importers.importer import Importer, torch_layout, torch_path
from linft.zoo.importers.residual import BIT, RESNET_V2, blocks_of, named
from linft.zoo.importers.timm_config import about


def architecture(tensors: Tensors) -> tuple[str, dict[str, Any]] | None:
    """The network whose depth, norm and width the keys and shapes show."""
    if not {"stem.conv.weight", "norm.weight", "stages.0.blocks.0.conv3.weight"} <= tensors.keys():
        return None
    blocks = blocks_of(tensors, r"stages\.(\d)\.blocks\.(\d+)\.")
    names = RESNET_V2 if "norm.running_var" in tensors else BIT
    return named(names, blocks, tensors.shapes["stem.conv.weight"][0])


def module(name: str) -> str:
    """Our name of a module: stages.1.blocks.0.norm1 is stage2/block0/norm1; the last norm is in the last stage."""
    name = {"stem.conv": "stem/conv", "norm": "stage4/norm", "head.fc": "head"}.get(name, name)
    name = re.sub(r"^stages\.(\d)\.blocks\.(\d+)\.", lambda m: f"stage{int(m[1]) + 1}/block{m[2]}/", name)
    return name.replace("downsample.conv", "shortcut_conv")


TIMM_RESNETV2 = Importer(architecture, torch_path(module), torch_layout, about)
