"""Importer of torchvision's AlexNet."""

from typing import Any

from linft.zoo.formats.tensors import Tensors
from linft.zoo.importers.importer import Importer, torch_layout, torch_path
from linft.zoo.importers.timm_config import about

NAMES = {
    "features.0": "stem/conv",
    "features.3": "stage1/conv1",
    "features.6": "stage2/conv1",
    "features.8": "stage2/conv2",
    "features.10": "stage2/conv3",
    "classifier.1": "stage3/dense1",
    "classifier.4": "stage3/dense2",
    "classifier.6": "head",
}


def architecture(tensors: Tensors) -> tuple[str, dict[str, Any]] | None:
    """AlexNet, and how wide; of these keys VGG has only some."""
    if not {"features.0.weight", "features.10.weight", "classifier.1.weight", "classifier.4.weight"} <= tensors.keys():
        return None
    width = tensors.shapes["features.0.weight"][0]
    return "alexnet", {} if width == 64 else {"width": width}


def module(name: str) -> str:
    """Our name of a module."""
    return NAMES.get(name, name)


TORCHVISION_ALEXNET = Importer(architecture, torch_path(module), torch_layout, about)
