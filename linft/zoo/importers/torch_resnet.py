"""Importer of the ResNets of torchvision and timm, whose state dicts have the same keys."""

import re
from typing import Any

from linft.zoo.formats.tensors import Tensors
from linft.zoo.importers.importer import Importer, torch_layout, torch_path
from linft.zoo.importers.residual import blocks_of, named
from linft.zoo.importers.timm_config import about

NAMES: dict[str, dict[tuple[int, ...], str]] = {
    "basic": {(2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet34"},
    "bottleneck": {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152"},
    "wide": {(3, 4, 23, 3): "wide_resnet101_2"},
}


def architecture(tensors: Tensors) -> tuple[str, dict[str, Any]] | None:
    """The ResNet whose depth, block and width the keys and shapes show."""
    if not {"conv1.weight", "bn1.running_var", "layer1.0.conv2.weight", "layer4.0.bn2.running_var"} <= tensors.keys():
        return None
    width = tensors.shapes["conv1.weight"][0]
    kind = "basic"
    if "layer1.0.conv3.weight" in tensors:
        kind = "wide" if tensors.shapes["layer1.0.conv1.weight"][0] == 2 * width else "bottleneck"
    return named(NAMES[kind], blocks_of(tensors, r"layer(\d)\.(\d+)\."), width)


def module(name: str) -> str:
    """Our name of a module: layer2.0.bn1 is stage2/block0/norm1, layer2.0.downsample.1 its shortcut_norm."""
    name = re.sub(r"^layer(\d)\.(\d+)\.", r"stage\1/block\2/", name)
    name = {"conv1": "stem/conv", "bn1": "stem/norm", "fc": "head"}.get(name, name)
    name = name.replace("downsample.0", "shortcut_conv").replace("downsample.1", "shortcut_norm")
    return re.sub(r"bn(\d)$", r"norm\1", name)


TORCH_RESNET = Importer(architecture, torch_path(module), torch_layout, about)
