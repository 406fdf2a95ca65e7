"""Importer of timm's Inception v4."""

import re
from typing import Any

from linft.zoo.formats.tensors import Tensors
from linft.zoo.importers.importer import Importer, torch_layout, torch_path
from linft.zoo.importers.timm_config import about

# timm numbers layers and blocks through; only some of those in the stem have no branches in their names.
STEM = {
    **{f"features.{i}": f"stem/block0/branch0_{i}" for i in range(3)},
    "features.3.conv": "stem/block1/branch1_0",
    "features.5.conv": "stem/block3/branch0_0",
}
BLOCKS = {"4": "stem/block2"} | {
    str(first + i): f"{stage}/block{i}"
    for stage, first, blocks in (("stage1", 6, 4), ("stage2", 10, 8), ("stage3", 18, 4))
    for i in range(blocks)
}


def architecture(tensors: Tensors) -> tuple[str, dict[str, Any]] | None:
    """Inception v4, and how wide."""
    if not {"features.0.conv.weight", "features.21.branch1_1a.conv.weight"} <= tensors.keys():
        return None
    width = tensors.shapes["features.0.conv.weight"][0]
    return "inception_v4", {} if width == 32 else {"width": width}


def module(name: str) -> str:
    """Our name of a module: features.7.branch1.0.bn is stage1/block1/branch1_0/norm."""
    layer, _, kind = name.rpartition(".")
    found = re.fullmatch(r"features\.(\d+)\.branch(\d)(?:[._](\w+))?", layer)
    if found and found[1] in BLOCKS:
        layer = f"{BLOCKS[found[1]]}/branch{found[2]}_{found[3] or 0}"
    elif layer not in STEM:
        return "head" if name == "last_linear" else name
    return f"{STEM.get(layer, layer)}/{'norm' if kind == 'bn' else kind}"


TIMM_INCEPTION = Importer(architecture, torch_path(module), torch_layout, about)
