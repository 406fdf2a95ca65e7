"""Importer of the DenseNets of torchvision and timm, whose state dicts have the same keys."""

import re
from typing import Any

from linft.zoo.formats.tensors import Tensors
from linft.zoo.importers.importer import Importer, torch_layout, torch_path
from linft.zoo.importers.timm_config import about

# The layers in each stage tell the name; other depths are densenet121 with an option.
NAMES: dict[tuple[int, ...], str] = {(6, 12, 24, 16): "densenet121", (6, 12, 32, 32): "densenet169"}
DEFAULTS = {"growth": 32, "width": 64, "bottleneck": 4}


def spelled(name: str) -> str:
    """A module's name as it is spelled now: torchvision's first files have norm.1 where norm1 is meant."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])", r"\1\2", name)


def architecture(tensors: Tensors) -> tuple[str, dict[str, Any]] | None:
    """The DenseNet whose layers, growth and widths the keys and shapes show."""
    shapes = {spelled(key): shape for key, shape in tensors.shapes.items()}
    first = "features.denseblock1.denselayer1"
    known = {"features.conv0.weight", f"{first}.conv1.weight", f"{first}.conv2.weight", "features.norm5.weight"}
    if not known <= shapes.keys():
        return None
    found = [re.match(r"features\.denseblock(\d)\.denselayer(\d+)\.", key) for key in shapes]
    layers = tuple(max((int(m[2]) for m in found if m and m[1] == stage), default=0) for stage in "1234")
    growth = shapes[f"{first}.conv2.weight"][0]
    bottleneck = shapes[f"{first}.conv1.weight"][0] // growth
    sizes = {"growth": growth, "width": shapes["features.conv0.weight"][0], "bottleneck": bottleneck}
    options: dict[str, Any] = {} if layers in NAMES else {"layers": layers}
    return NAMES.get(layers, "densenet121"), options | {k: v for k, v in sizes.items() if v != DEFAULTS[k]}


def module(name: str) -> str:
    """Our name of a module: features.denseblock2.denselayer1.norm1 is stage2/layer0/norm1."""
    name = spelled(name)
    name = re.sub(r"^features\.denseblock(\d)\.denselayer(\d+)\.", lambda m: f"stage{m[1]}/layer{int(m[2]) - 1}/", name)
    name = re.sub(r"^features\.transition(\d)\.", lambda m: f"stage{int(m[1]) + 1}/transition/", name)
    stem_and_end = {"features.conv0": "stem/conv", "features.norm0": "stem/norm", "features.norm5": "stage4/norm"}
    return (stem_and_end | {"classifier": "head"}).get(name, name)


TORCH_DENSENET = Importer(architecture, torch_path(module), torch_layout, about)
