"""Importers of torchvision's ResNets, DenseNets and AlexNet; timm has the first two under the same keys."""

import re
from typing import Any

from linft.zoo.importers.importer import Importer, blocks_of, named, torch_layout, torch_path
from linft.zoo.importers.timm_config import about
from linft.zoo.tensors import Tensors

RESNETS: dict[str, dict[tuple[int, ...], str]] = {
    "basic": {(2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet34"},
    "bottleneck": {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152"},
    "wide": {(3, 4, 23, 3): "wide_resnet101_2"},
}


def resnet_architecture(tensors: Tensors) -> tuple[str, dict[str, Any]] | None:
    """The ResNet whose depth, block and width the keys and shapes show."""
    if not {"conv1.weight", "bn1.running_var", "layer1.0.conv2.weight", "layer4.0.bn2.running_var"} <= tensors.keys():
        return None
    width = tensors.shapes["conv1.weight"][0]
    kind = "basic"
    if "layer1.0.conv3.weight" in tensors:
        kind = "wide" if tensors.shapes["layer1.0.conv1.weight"][0] == 2 * width else "bottleneck"
    return named(RESNETS[kind], blocks_of(tensors, r"layer(\d)\.(\d+)\."), width)


def resnet_module(name: str) -> str:
    """Our name of a module: layer2.0.bn1 is stage2/block0/norm1, layer2.0.downsample.1 its shortcut_norm."""
    name = re.sub(r"^layer(\d)\.(\d+)\.", r"stage\1/block\2/", name)
    name = {"conv1": "stem/conv", "bn1": "stem/norm", "fc": "head"}.get(name, name)
    name = name.replace("downsample.0", "shortcut_conv").replace("downsample.1", "shortcut_norm")
    return re.sub(r"bn(\d)$", r"norm\1", name)


RESNET = Importer(resnet_architecture, torch_path(resnet_module), torch_layout, about)


# The layers in each stage tell the name; other depths are densenet121 with an option.
DENSENETS: dict[tuple[int, ...], str] = {(6, 12, 24, 16): "densenet121", (6, 12, 32, 32): "densenet169"}
DENSENET121 = {"growth": 32, "width": 64, "bottleneck": 4}


def spelled(name: str) -> str:
    """A module's name as it is spelled now: torchvision's first files have norm.1 where norm1 is meant."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])", r"\1\2", name)


def densenet_architecture(tensors: Tensors) -> tuple[str, dict[str, Any]] | None:
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
    options: dict[str, Any] = {} if layers in DENSENETS else {"layers": layers}
    return DENSENETS.get(layers, "densenet121"), options | {k: v for k, v in sizes.items() if v != DENSENET121[k]}


def densenet_module(name: str) -> str:
    """Our name of a module: features.denseblock2.denselayer1.norm1 is stage2/layer0/norm1."""
    name = spelled(name)
    name = re.sub(r"^features\.denseblock(\d)\.denselayer(\d+)\.", lambda m: f"stage{m[1]}/layer{int(m[2]) - 1}/", name)
    name = re.sub(r"^features\.transition(\d)\.", lambda m: f"stage{int(m[1]) + 1}/transition/", name)
    stem_and_end = {"features.conv0": "stem/conv", "features.norm0": "stem/norm", "features.norm5": "stage4/norm"}
    return (stem_and_end | {"classifier": "head"}).get(name, name)


DENSENET = Importer(densenet_architecture, torch_path(densenet_module), torch_layout, about)


ALEXNET_MODULES = {
    "features.0": "stem/conv",
    "features.3": "stage1/conv1",
    "features.6": "stage2/conv1",
    "features.8": "stage2/conv2",
    "features.10": "stage2/conv3",
    "classifier.1": "stage3/dense1",
    "classifier.4": "stage3/dense2",
    "classifier.6": "head",
}


def alexnet_architecture(tensors: Tensors) -> tuple[str, dict[str, Any]] | None:
    """AlexNet, and how wide; of these keys VGG has only some."""
    if not {"features.0.weight", "features.10.weight", "classifier.1.weight", "classifier.4.weight"} <= tensors.keys():
        return None
    width = tensors.shapes["features.0.weight"][0]
    return "alexnet", {} if width == 64 else {"width": width}


def alexnet_module(name: str) -> str:
    """Our name of a module."""
    return ALEXNET_MODULES.get(name, name)


ALEXNET = Importer(alexnet_architecture, torch_path(alexnet_module), torch_layout, about)
