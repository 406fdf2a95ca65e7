"""Importer of the CIFAR-10 ResNets of akamaster/pytorch_resnet_cifar10 (option A), in torch's layout."""

import re
from collections.abc import Mapping

import numpy as np

from linft.base import Model
from linft.models import registry
from linft.zoo.native import fill

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NORM = {
    "weight": "params/{}/scale",
    "bias": "params/{}/bias",
    "running_mean": "batch_stats/{}/mean",
    "running_var": "batch_stats/{}/var",
}


def recognises(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bool:
    """Whether the keys are those of such a ResNet."""
    return {"conv1.weight", "linear.weight", "layer3.0.bn2.running_var"} <= tensors.keys()


def read(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], name: str) -> Model:
    """The Model; the number of blocks a stage is read off the keys."""
    tensors = {key: value for key, value in tensors.items() if not key.endswith(".num_batches_tracked")}
    blocks = 1 + max((int(m[1]) for key in tensors if (m := re.match(r"layer1\.(\d+)\.", key))), default=-1)
    num_classes = tensors["linear.weight"].shape[0]
    variables = fill(
        registry.shapes(f"cifar_resnet{6 * blocks + 2}", num_classes),
        dict(_rename(key, value) for key, value in tensors.items()),
    )
    return registry.build(
        f"cifar_resnet{6 * blocks + 2}",
        num_classes,
        variables,
        name=name,
        source={"data": "cifar10", "class_names": CIFAR10, "from": "akamaster/pytorch_resnet_cifar10"},
    )


def _rename(key: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """Our path and layout: convolutions out×in×h×w become h×w×in×out, the linear layer is transposed."""
    module, _, leaf = key.rpartition(".")
    module = re.sub(r"^layer(\d)\.(\d+)\.", r"stage\1/block\2/", module)
    module = {"conv1": "stem/conv", "bn1": "stem/norm", "linear": "head"}.get(module, module)
    if module == "head":
        return f"params/head/{'kernel' if leaf == 'weight' else 'bias'}", value.T
    if re.search(r"bn\d$|norm$", module):
        return NORM.get(leaf, "params/{}/" + leaf).format(re.sub(r"bn(\d)$", r"norm\1", module)), value
    return f"params/{module}/kernel", value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
