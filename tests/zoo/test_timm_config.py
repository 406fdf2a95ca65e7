"""timm's config.json beside the weights becomes preprocessing and source, or is refused in one line."""

import json

import pytest
from safetensors.numpy import save_file

from linft import load_model
from linft.errors import LinftError
from linft.models import registry
from linft.preprocess import Preprocessing

CONFIG = {
    "architecture": "resnet18",
    "num_classes": 5,
    "num_features": 32,
    "label_names": ["a", "b", "c", "d", "e"],
    "pretrained_cfg": {
        "tag": "fb_swsl_ig1b_ft_in1k",
        "input_size": [3, 96, 80],
        "test_input_size": [3, 128, 128],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "num_classes": 1000,
        "license": "cc-by-nc-4.0",
        "origin_url": "https://example.org/weights",
        "paper_ids": "arXiv:1905.00546",
    },
}


@pytest.fixture
def load(torch_resnet18, tmp_path):
    """The model of a config."""
    save_file(torch_resnet18, tmp_path / "model.safetensors")

    def load(config):
        text = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / "config.json").write_text(text)
        return load_model(tmp_path / "model.safetensors")

    return load


def changed(**settings):
    """The config with other settings; None leaves one out."""
    both = {**CONFIG, "pretrained_cfg": {**CONFIG["pretrained_cfg"]}}
    for name, value in settings.items():
        where = both if name in CONFIG else both["pretrained_cfg"]
        where[name] = value
    return both


def test_a_whole_config(load):
    model = load(CONFIG)
    assert model.preprocessing == Preprocessing((96, 80, 3), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.95, "bicubic")
    assert model.source == {
        "architecture": "resnet18",
        "tag": "fb_swsl_ig1b_ft_in1k",
        "licence": "cc-by-nc-4.0",
        "origin": "https://example.org/weights",
        "paper": "arXiv:1905.00546",
        "data": "imagenet-1k",
        "pretrained_on": "instagram-1b",
        "class_names": ["a", "b", "c", "d", "e"],
    }


def test_an_older_config_with_all_at_the_top(load):
    old = {**CONFIG["pretrained_cfg"], "architecture": "resnet18", "num_classes": 5}
    assert load(old).preprocessing == load(CONFIG).preprocessing


def test_settings_left_out_are_timms_own(load):
    settings = dict.fromkeys(("input_size", "mean", "std", "crop_pct", "interpolation", "tag"))
    model = load(changed(**settings, label_names=None))
    imagenet = registry.IMAGENET
    assert model.preprocessing == Preprocessing((224, 224, 3), imagenet.mean, imagenet.std, 0.875, "bicubic")
    assert not {"data", "class_names", "tag"} & model.source.keys()


@pytest.mark.parametrize("config", [{"model": {"name": "x"}}, {"architectures": ["ResNet"]}])
def test_a_config_that_is_not_timms_is_passed_over(load, config):
    model = load(config)
    assert (model.preprocessing, model.source) == (registry.IMAGENET, {})


@pytest.mark.parametrize(
    ("tag", "data", "before"),
    [("a1_in1k", "imagenet-1k", None), ("goog_in21k", "imagenet-21k", None), ("augreg_in21k_ft_in1k", "imagenet-1k",
     "imagenet-21k"), ("webli", None, None)],
)  # fmt: skip
def test_data_sets_of_a_tag(load, tag, data, before):
    source = load(changed(tag=tag)).source
    assert (source.get("data"), source.get("pretrained_on")) == (data, before)


def test_what_cannot_be_followed_is_noted(load):
    assert "crop_mode 'squash'" in load(changed(crop_mode="squash")).source["note"]
    assert load(changed(interpolation="random")).preprocessing.interpolation == "bilinear"  # as timm evaluates


BAD = {
    "no JSON": ("{", "config.json is not a readable config .*delete it"),
    "a list": ("[1]", "config.json is not a readable config .*delete it"),
    "two numbers for a size": (changed(input_size=[3, 224]), "config.json has preprocessing that cannot be followed"),
    "two means": (changed(mean=[0.5, 0.5]), "cannot be followed .*mean and std need 3 numbers each"),
    "a crop of text": (changed(crop_pct="most"), "cannot be followed .*could not convert"),
    "no deviation": (changed(std=[0, 0, 0]), "cannot be followed .*std must be above 0"),
    "another interpolation": (changed(interpolation="hamming"), "asks for interpolation 'hamming'; give nearest, "),
    "other classes": (changed(num_classes=77), r"says 77 classes, but no array of model.safetensors is of that size"),
    "too few names": (changed(label_names=["a"]), "has 1 label_names for 5 classes; correct one of them"),
    "a look-alike": (changed(architecture="resnetblur18"), "says resnetblur18, which has the arrays of a plain ResNet"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses(load, case):
    config, message = BAD[case]
    with pytest.raises(LinftError, match=message) as error:
        load(config)
    assert "\n" not in str(error.value)
