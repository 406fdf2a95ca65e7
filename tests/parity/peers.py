"""The originals: every architecture as timm or torchvision builds it, and two sizes of its input."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import wide_resnet

import linft
from linft.core.base import Model

# torchvision's Python part asks for two operators of its compiled part, which not every build of torch can load.
OPERATORS = torch.library.Library("torchvision", "DEF")
OPERATORS.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
OPERATORS.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
import torchvision  # noqa: E402


class Peer(NamedTuple):
    """An original network."""

    build: Callable[[], torch.nn.Module]
    size: int
    """Height and width of the input."""
    second: int
    """Another size that it must work at; odd where it can be, since padding shows there."""
    load: Callable[[Path], Model] = linft.load_model
    """From its state dict in a file to the network of ours."""


def small(module: Callable[..., torch.nn.Module], size: int, second: int, **options) -> Peer:
    """A member of a family with few channels and classes, for small images."""
    return Peer(partial(module, num_classes=5, **options), size, second)


def own_size(module: Callable[..., torch.nn.Module], size: int = 224, second: int = 107, **options) -> Peer:
    """An architecture as published."""
    return Peer(partial(module, **options), size, second)


def residual(block: type, layers: tuple[int, ...], **options) -> partial:
    """A ResNet of torchvision, which cannot be narrow."""
    return partial(torchvision.models.ResNet, block=block, layers=layers, **options)


def narrowed(module: Callable[..., torch.nn.Module], by: int, num_classes: int) -> torch.nn.Module:
    """A network that has no narrow form, with the first channels of every layer (the image's three are kept)."""
    network = module(num_classes=by * num_classes)
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data[tuple(slice(n if n == 3 else n // by) for n in tensor.shape[:2])]
    return network


BASIC, BOTTLENECK = torchvision.models.resnet.BasicBlock, torchvision.models.resnet.Bottleneck


def narrow_v2(**options) -> partial:
    """A pre-activation ResNet of timm with half its channels."""
    channels = (128, 256, 512, 1024)
    return partial(timm.models.resnetv2.ResNetV2, layers=(1, 2, 1, 1), stem_chs=32, channels=channels, **options)


BATCH_NORM = {"conv_layer": timm.layers.create_conv2d, "norm_layer": timm.layers.BatchNormAct2d}
BIT = {"conv_layer": partial(timm.layers.StdConv2d, eps=1e-8), "stem_type": "fixed"}

# One member of each family.
SMALL: dict[str, Peer] = {
    "resnet, basic blocks": small(residual(BASIC, (1, 2, 1, 1)), 64, 75),
    "resnet, bottlenecks": small(residual(BOTTLENECK, (2, 1, 1, 1)), 64, 75),
    "wide resnet": small(residual(BOTTLENECK, (1, 1, 1, 1), width_per_group=128), 64, 75),
    "resnetv2": small(narrow_v2(**BATCH_NORM), 64, 75),
    "bit": small(narrow_v2(**BIT), 64, 75),
    "wide resnet for small images": Peer(partial(wide_resnet.WideResNet, 1, 2, 5), 32, 25, wide_resnet.load),
    "densenet": small(
        torchvision.models.DenseNet, 64, 75, growth_rate=4, block_config=(1, 2, 1, 1), num_init_features=12, bn_size=3
    ),
    "mobilenet_v1": small(partial(timm.models.efficientnet._gen_mobilenet_v1, "mobilenetv1_100", 0.25), 64, 75),
    "inception_v4": small(partial(narrowed, timm.models.inception_v4, 8), 79, 107),
    "alexnet": small(partial(narrowed, torchvision.models.alexnet, 16), 95, 127),
}

FULL: dict[str, Peer] = {
    **{
        f"torchvision {name}": own_size(getattr(torchvision.models, name))
        for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet101_2")
    },
    # timm's have the same keys and layers: two of them show it.
    **{f"timm {name}": own_size(getattr(timm.models, name)) for name in ("resnet18", "resnet50")},
    **{
        f"timm {name}": own_size(getattr(timm.models, name))
        for name in ("resnetv2_50", "resnetv2_101", "resnetv2_50x1_bit", "resnetv2_101x1_bit")
    },
    **{
        f"wrn{6 * blocks + 4}_{factor}": Peer(
            partial(wide_resnet.WideResNet, blocks, factor, 10), 32, 25, wide_resnet.load
        )
        for blocks, factor in ((2, 4), (4, 10), (6, 4))
    },
    **{
        f"{package.__name__} {name}": own_size(getattr(package.models, name))
        for package in (timm, torchvision)
        for name in ("densenet121", "densenet169")
    },
    "timm mobilenetv1_100": own_size(timm.models.mobilenetv1_100),
    "timm inception_v4": own_size(timm.models.inception_v4, 299, 139),
    "torchvision alexnet": own_size(torchvision.models.alexnet),
}
