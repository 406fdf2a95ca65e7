"""What a timm `config.json` beside the weights tells: preprocessing, network, and what they were pretrained on."""

import json
import re
from pathlib import Path
from typing import Any

from linft.core.errors import LinftError
from linft.core.preprocessing import Preprocessing
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

# Arguments of timm's networks that the shapes of the arrays show, so that a wrong one is refused by them; and how
# the names end of those that only training knows.
SHOWN = {
    *("num_classes", "in_chans", "num_features", "layers", "channels", "cardinality", "base_width", "stem_width"),
    *("block_reduce_first", "down_kernel_size", "width_factor", "stem_chs", "bottle_ratio"),
    *("growth_rate", "block_config", "bn_size", "stem_size"),
}
TRAINING = ("drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last", "memory_efficient", "bn_momentum")
# Arguments that no array shows, with the values that the networks here compute; any other is refused.
STANDARD: dict[str, tuple[Any, ...]] = {
    "global_pool": ("avg", "fast", "fastavg"),
    "act_layer": ("relu",),
    "norm_layer": ("batchnorm2d", "batchnorm"),
    "output_stride": (32,),
    "stem_type": ("",),
    "replace_stem_pool": (False,),
    "avg_down": (False,),
    "aa_layer": ("",),
    "aa_stem_only": (True, False),
    "preact": (True,),
    "basic": (False,),
    "bn_eps": (1e-5,),
    "pad_type": ("",),
}
OTHERWISE: dict[re.Pattern[str], dict[str, tuple[Any, ...]]] = {
    re.compile("mobilenet"): {"act_layer": ("relu6",)},
    re.compile("inception_v4"): {"norm_eps": (1e-3,)},
    re.compile("resnetv2_.*bit"): {"stem_type": ("fixed",), "norm_layer": ("groupnorm",)},
}


def about(tensors: Tensors) -> dict[str, Any]:
    """Preprocessing and source as fields of a Model; nothing where there is no config of timm's.

    Raises:
      LinftError: it is damaged, is of a network that only looks like the one in the file or that differs from it
        by an argument, asks for what `Preprocessing` has not, or has as many classes as no array in the file.
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
    arguments = model_args(settings, path)
    settings = {**settings, "num_classes": arguments.get("num_classes", settings.get("num_classes"))}
    channels = arguments.get("in_chans")
    if channels is not None and not any(shape[1:2] == (channels,) for shape in tensors.shapes.values()):
        raise LinftError(
            f"{path} says in_chans={channels!r}, but no kernel of {tensors.path.name} has so many; correct in_chans"
        )
    classes = settings.get("num_classes")
    if classes is not None and not any(classes in shape for shape in tensors.shapes.values()):
        raise LinftError(
            f"{path} says {classes} classes, but no array of {tensors.path.name} is of that size; correct num_classes"
        )
    return {"preprocessing": preprocessing(settings, path), "source": source(settings, path)}


def model_args(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """The arguments that timm builds the network with, every one of them as the network here has it.

    The pooling that a config says beside them counts as one, though timm itself only writes it.

    Raises:
      LinftError: naming the argument that asks for another network than is here.
    """
    given = settings.get("model_args", {})
    if not isinstance(given, dict):
        raise LinftError(f"{path} has model_args that are no table of arguments ({given!r}); correct them")
    pooling = {"global_pool": settings["global_pool"]} if "global_pool" in settings else {}
    arguments = {name: value for name, value in {**pooling, **given}.items() if value is not None}
    here = STANDARD | next((own for family, own in OTHERWISE.items() if family.match(settings["architecture"])), {})
    for name, value in arguments.items():
        plain = value.lower() if isinstance(value, str) else value
        if name not in SHOWN and not name.endswith(TRAINING) and plain not in here.get(name, ()):
            known = " or ".join(map(repr, here.get(name, ()))) or "without it"
            raise LinftError(
                f"{path} says {name}={value!r}, which makes another network of {settings['architecture']} than is "
                f"supported ({known}); choose other weights, or give the network by linft.from_flax"
            )
    return arguments


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
        crop, interpolation = float(settings["crop_pct"]), INTERPOLATIONS[settings["interpolation"]]
        if channels == 1 and len(mean) == 3:  # timm writes the numbers of the colour images that it began with
            return Preprocessing((height, width, 3), mean, std, crop, interpolation).grey()
        return Preprocessing((height, width, channels), mean, std, crop, interpolation)
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
    if names and len(names) != (settings.get("num_classes") or len(names)):
        raise LinftError(
            f"{path} has {len(names)} label_names for {settings['num_classes']} classes; correct one of them"
        )
    if names:
        found["class_names"] = names
    mode = settings.get("crop_mode", DEFAULTS["crop_mode"])
    if mode != DEFAULTS["crop_mode"]:
        found["note"] = f"timm prepares images with crop_mode {mode!r}; here the centre is cut"
    return found
