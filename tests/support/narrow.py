"""A narrow network of every kind in the registry, which has each kind of layer and compiles in seconds."""

from typing import Any, NamedTuple

import drawn
import jax

from linft.core.base import Model
from linft.core.preprocessing import Preprocessing
from linft.models import create, registry


class Narrow(NamedTuple):
    """A registered network with options that make it small, and the side of its images."""

    name: str
    options: dict[str, Any]
    size: int = 32

    def create(self, num_classes: int) -> Model:
        """The network at weights from NumPy."""
        images = Preprocessing((self.size, self.size, 3))
        weights = drawn.like(registry.shapes(self.name, num_classes, self.options))
        return registry.build(self.name, num_classes, weights, images, self.options)


def small_resnet(num_classes: int, width: int = 2, blocks: tuple[int, ...] = (1,), seed: int = 0) -> Model:
    """Stem, one block and head at random weights: the least that has all that a ResNet does, and half the compiling."""
    images = Preprocessing((16, 16, 3))
    return create("resnet18", num_classes, jax.random.key(seed), images, blocks=blocks, width=width)


TWO_STAGES = {"blocks": (1, 1), "width": 4}  # have every kind of layer that four have

NARROW = {
    "cifar resnet": Narrow("cifar_resnet8", {"width": 4}, 16),
    "cifar resnet, option b": Narrow("cifar_resnet8", {"width": 4, "shortcut": "b"}, 16),
    "cifar densenet": Narrow("cifar_densenet22", {"layers": 1, "growth": 4, "width": 4}, 16),
    "resnet, basic blocks": Narrow("resnet18", TWO_STAGES),
    "resnet, bottlenecks": Narrow("resnet50", TWO_STAGES),
    "resnet v1": Narrow("resnet50_v1", TWO_STAGES),
    "wide resnet": Narrow("wide_resnet101_2", TWO_STAGES),
    "resnet v2": Narrow("resnetv2_50", TWO_STAGES),
    "bit": Narrow("resnetv2_50x1_bit", TWO_STAGES | {"groups": 2}),
    "wide resnet for small images": Narrow("wrn16_4", {"blocks": 1, "factor": 2, "width": 4}, 16),
    "densenet": Narrow("densenet121", {"layers": (2, 0, 0, 0), "growth": 8, "width": 8, "bottleneck": 2}),
    "mobilenet v1": Narrow("mobilenet_v1", {"blocks": (1, 2), "width": 2}),
    "inception v4": Narrow("inception_v4", {"blocks": (0, 0, 1), "width": 1}, 75),
    "alexnet": Narrow("alexnet", {"width": 1}, 63),
}
