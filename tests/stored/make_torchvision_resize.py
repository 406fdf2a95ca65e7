"""Write torchvision_resize.npz: torchvision's Resize and CenterCrop, for tests/core/test_preprocessing.py.

The picture is a sheet of 8×8 scanned digits, cut to several sizes. Written with torchvision 0.28.0 on
torch 2.13.0 (whose compiled part needs the two operators below to be defined before the import):

    pip install torch==2.13.0 scikit-learn pillow && pip install --no-deps torchvision==0.28.0
    python make_torchvision_resize.py
"""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchvision import transforms  # noqa: E402

# name: height and width of the picture, side of the crop, its share of the short side, interpolation
CASES = {
    "wide": (40, 61, 24, 0.875, "bilinear"),
    "tall": (64, 31, 24, 0.875, "bicubic"),
    "larger": (24, 29, 32, 1.0, "bilinear"),
    "odd share": (33, 50, 24, 0.9, "lanczos"),
    "square": (40, 40, 24, 1.0, "nearest"),
}

if __name__ == "__main__":
    digits = np.round(load_digits().images[:64] * (255 / 16)).astype(np.uint8)
    sheet = digits.reshape(8, 8, 8, 8).swapaxes(1, 2).reshape(64, 64)
    sheet = np.stack([sheet, sheet.T, 255 - sheet], axis=-1)
    arrays = {"sheet": sheet}
    for name, (height, width, side, share, interpolation) in CASES.items():
        mode = transforms.InterpolationMode(interpolation)
        resize = transforms.Compose([transforms.Resize(math.floor(side / share), mode), transforms.CenterCrop(side)])
        arrays[name] = np.asarray(resize(Image.fromarray(sheet[:height, :width])))
    np.savez_compressed(Path(__file__).with_name("torchvision_resize.npz"), **arrays)
