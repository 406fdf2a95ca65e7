"""A wide ResNet for small images in torch, as the paper describes it; neither timm nor torchvision has one.

The modules have the names of ours, so that the map of keys is only a change of separator.
"""

from pathlib import Path

import torch
from torch import nn

from linft.core.base import Model
from linft.zoo.importers.importer import Importer, torch_layout, torch_path
from linft.zoo.reading import read
from linft.zoo.tensors import open_tensors
from linft.zoo.wrapping import FoundNetwork


class Block(nn.Module):
    """B(3, 3): norm, ReLU, convolution, twice."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        if inputs != outputs:
            self.shortcut_conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.norm1(x).relu()
        residual = self.conv2(self.norm2(self.conv1(a)).relu())
        return residual + (self.shortcut_conv(a) if hasattr(self, "shortcut_conv") else x)


class WideResNet(nn.Module):
    """WRN-(6·blocks + 4)-factor."""

    def __init__(self, blocks: int, factor: int, num_classes: int):
        super().__init__()
        self.stem = nn.ModuleDict({"conv": nn.Conv2d(3, 16, 3, padding=1, bias=False)})
        inputs = 16
        for stage in range(3):
            outputs, layers = 16 * 2**stage * factor, nn.ModuleDict()
            for i in range(blocks):
                layers[f"block{i}"] = Block(inputs, outputs, 2 if stage > 0 and i == 0 else 1)
                inputs = outputs
            setattr(self, f"stage{stage + 1}", layers)
        self.stage3["norm"] = nn.BatchNorm2d(inputs)
        self.head = nn.Linear(inputs, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem["conv"](x)
        for stage in (self.stage1, self.stage2, self.stage3):
            for layer in stage.values():
                x = layer(x)
        return self.head(x.relu().mean((2, 3)))


def load(path: Path) -> Model:
    """The network of ours with the weights of one in torch."""
    tensors = open_tensors(path)
    blocks = sum(key.startswith("stage1.") and key.endswith(".conv1.weight") for key in tensors)
    factor = tensors.shapes["stage1.block0.conv1.weight"][0] // 16
    importer = Importer(
        lambda tensors: ("wrn16_4", {"blocks": blocks, "factor": factor}),
        torch_path(lambda name: name.replace(".", "/")),
        torch_layout,
        lambda tensors: {},
    )
    return read(FoundNetwork(importer, tensors, beside=tensors), path.stem)
