"""Importer of timm's MobileNet v1."""

import re
from typing import Any

from linft.zoo.formats.tensors import Tensors
from linft.zoo.importers.importer import Importer, torch_layout, torch_path
from linft.zoo.importers.timm_config import about


def architecture(tensors: Tensors) -> tuple[str, dict[str, Any]] | None:
    """MobileNet v1, whose later relatives have the same keys and a second pointwise convolution."""
    if not {"conv_stem.weight", "blocks.4.1.conv_dw.weight", "blocks.4.1.conv_pw.weight"} <= tensors.keys():
        return None
    if any(".conv_pwl." in key for key in tensors):
        return None
    width = tensors.shapes["conv_stem.weight"][0]
    return "mobilenet_v1", {} if width == 32 else {"width": width}


def module(name: str) -> str:
    """Our name of a module: blocks.1.0.conv_dw is stage2/block0/depthwise."""
    name = re.sub(r"^blocks\.(\d)\.(\d)\.", lambda m: f"stage{int(m[1]) + 1}/block{m[2]}/", name)
    name = {"conv_stem": "stem/conv", "bn1": "stem/norm", "classifier": "head"}.get(name, name)
    name = name.replace("conv_dw", "depthwise").replace("conv_pw", "pointwise")
    return re.sub(r"/bn(\d)$", r"/norm\1", name)


TIMM_MOBILENET = Importer(architecture, torch_path(module), torch_layout, about)
