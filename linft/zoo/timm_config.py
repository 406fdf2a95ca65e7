"""What a timm `config.json` beside the weights tells: preprocessing, and what they were pretrained on."""

import json
import re
from pathlib import Path
from typing import Any

from linft.errors import LinftError
from linft.preprocess import Preprocessing
from linft.zoo.tensors import Tensors

# timm's own, for a setting that a config leaves out.
DEFAULTS = {
    "input_size": (3, 224, 224),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "crop_mode": "center",
}
# By timm's name; random is for training, and evaluates as bilinear.
INTERPOLATIONS: Any = {
    "nearest": "nearest",
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "lanczos": "lanczos",
    "random": "bilinear",
}

# A tag such as `fb_swsl_ig1b_ft_in1k` names the data sets in the order of training.
DATA = {
    "in1k": "imagenet-1k",
    "in12k": "imagenet-12k",
    "in21k": "imagenet-21k",
    "in22k": "imagenet-22k",
    "ig1b": "instagram-1b",
    "yfcc100m": "yfcc100m",
}
KEPT = {
    "architecture": "architecture",
    "tag": "tag",
    "license": "licence",
    "origin_url": "origin",
    "paper_ids": "paper",
}

# Their anti-aliasing filters are constants that no file holds, so their arrays are those of a plain ResNet.
LOOK_ALIKES = re.compile(r"resnet(blur|aa)\d+")


def about(tensors: Tensors) -> dict[str, Any]:
    """Preprocessing and source as fields of a Model; nothing where there is no config of timm's.

    Raises:
      LinftError: it is damaged, is of a network that only looks like the one in the file, asks for what
        `Preprocessing` has not, or has as many classes as no array in the file.
    """
    path = tensors.path.with_name("config.json")
    settings = read(path) if path.is_file() else {}
    if not isinstance(settings.get("architecture"), str):
        return {}
    if LOOK_ALIKES.match(settings["architecture"]):
        raise LinftError(
            f"{path} says {settings['architecture']}, which has the arrays of a plain ResNet and computes something "
            "else; it is not supported"
        )
    classes = settings.get("num_classes")
    if classes is not None and not any(classes in shape for shape in tensors.shapes.values()):
        raise LinftError(
            f"{path} says {classes} classes, but no array of {tensors.path.name} is of that size; correct num_classes"
        )
    return {"preprocessing": preprocessing(settings, path), "source": source(settings, path)}


def read(path: Path) -> dict[str, Any]:
    """All settings, which older files have at the top level and newer ones under `pretrained_cfg`."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        found = {**(config.get("pretrained_cfg") or {}), **config}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise LinftError(
            f"{path} is not a readable config ({error}); correct it, or delete it for the architecture's own settings"
        ) from None
    return {key: value for key, value in found.items() if value is not None}


def preprocessing(settings: dict[str, Any], path: Path) -> Preprocessing:
    """How images are prepared, at the size of training."""
    settings = DEFAULTS | settings
    if settings["interpolation"] not in INTERPOLATIONS:
        raise LinftError(
            f"{path} asks for interpolation {settings['interpolation']!r}; give {', '.join(INTERPOLATIONS)}"
        )
    try:
        channels, height, width = map(int, settings["input_size"])
        mean, std = tuple(map(float, settings["mean"])), tuple(map(float, settings["std"]))
        crop = float(settings["crop_pct"])
        return Preprocessing((height, width, channels), mean, std, crop, INTERPOLATIONS[settings["interpolation"]])
    except (TypeError, ValueError, LinftError) as error:
        raise LinftError(f"{path} has preprocessing that cannot be followed ({error}); correct it") from None


def source(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """Data sets, class names, licence, origin, and what of the preprocessing is not followed."""
    found = {ours: settings[theirs] for theirs, ours in KEPT.items() if theirs in settings}
    data = [DATA[part] for part in str(settings.get("tag", "")).split("_") if part in DATA]
    if data:
        found["data"] = data[-1]
    if len(data) > 1:
        found["pretrained_on"] = data[0]
    names = settings.get("label_names") or ()
    names = list(names.values() if isinstance(names, dict) else names)
    if names and len(names) != settings.get("num_classes", len(names)):
        raise LinftError(
            f"{path} has {len(names)} label_names for {settings['num_classes']} classes; correct one of them"
        )
    if names:
        found["class_names"] = names
    mode = settings.get("crop_mode", DEFAULTS["crop_mode"])
    if mode != DEFAULTS["crop_mode"]:
        found["note"] = f"timm prepares images with crop_mode {mode!r}; here the centre is cut"
    return found
