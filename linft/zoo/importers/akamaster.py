"""Importer of the CIFAR-10 ResNets of akamaster/pytorch_resnet_cifar10 (option A), in torch's layout."""

import re
from typing import Any

from linft.core.preprocessing import Preprocessing
from linft.zoo.importers.importer import Importer, torch_layout, torch_path
from linft.zoo.tensors import Tensors

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def architecture(tensors: Tensors) -> tuple[str, dict[str, Any]] | None:
    """The ResNet whose number of blocks a stage the keys show."""
    if not {"conv1.weight", "layer3.0.bn2.running_var"} <= tensors.keys() or "layer4.0.conv1.weight" in tensors:
        return None
    blocks = 1 + max((int(m[1]) for key in tensors if (m := re.match(r"layer1\.(\d+)\.", key))), default=-1)
    return f"cifar_resnet{6 * blocks + 2}", {}


def module(name: str) -> str:
    """Our name of a module: layer2.0.bn1 is stage2/block0/norm1."""
    name = re.sub(r"^layer(\d)\.(\d+)\.", r"stage\1/block\2/", name)
    name = {"conv1": "stem/conv", "bn1": "stem/norm", "linear": "head"}.get(name, name)
    return re.sub(r"bn(\d)$", r"norm\1", name)


def about(tensors: Tensors) -> dict[str, Any]:
    """Where the weights come from, and how their images were standardised."""
    preprocessing = Preprocessing((32, 32, 3), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    if tensors.shapes.get("linear.weight", ())[:1] != (len(CIFAR10),):  # somebody else's
        return {"preprocessing": preprocessing}
    return {
        "preprocessing": preprocessing,
        "source": {"data": "cifar10", "class_names": CIFAR10, "from": "akamaster/pytorch_resnet_cifar10"},
    }


AKAMASTER = Importer(architecture, torch_path(module), torch_layout, about)
