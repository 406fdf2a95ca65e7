"""timm's config.json beside the weights becomes preprocessing and source, or is refused in one line."""

import json

import pytest
from safetensors.numpy import save_file

from linft import load_model
from linft.core.errors import LinftError
from linft.core.preprocessing import Preprocessing
from linft.models import registry
from linft.zoo.importers.timm_config import model_args

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
        where = both if name in (*CONFIG, "model_args", "global_pool") else both["pretrained_cfg"]
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
    "other classes in the arguments": (changed(model_args={"num_classes": 77}), "says 77 classes, but no array of"),
    "other channels": (changed(model_args={"in_chans": 2}), "says in_chans=2, but no kernel of model.safetensors has"),
    "arguments that are none": (changed(model_args=["silu"]), "has model_args that are no table of arguments"),
    "a pooling beside the arguments": (changed(global_pool="max"), r"says global_pool='max', .*\('avg' or 'fast' or"),
    "a look-alike": (changed(architecture="resnetblur18"), "says resnetblur18, which has the arrays of a plain ResNet"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses(load, case):
    config, message = BAD[case]
    with pytest.raises(LinftError, match=message) as error:
        load(config)
    assert "\n" not in str(error.value)


def test_arguments_of_the_network_that_is_here(load):
    plain = load(CONFIG)
    given = {"global_pool": "avg", "num_classes": 5, "in_chans": 3, "act_layer": "ReLU", "norm_layer": "batchnorm2d"}
    harmless = {"drop_rate": 0.2, "drop_path_rate": 0.1, "zero_init_last": False, "aa_layer": None, "output_stride": 32}
    model = load(changed(model_args=given | harmless, global_pool="avg"))
    assert (model.preprocessing, model.source) == (plain.preprocessing, plain.source)


OTHERS = {
    "act_layer": ("silu", "gelu", "relu6"),
    "norm_layer": ("groupnorm", "layernorm2d"),
    "global_pool": ("max", "avgmax", "catavgmax", ""),
    "output_stride": (8, 16),
    "aa_layer": ("blurpool",),
    "stem_type": ("deep", "deep_tiered"),
    "replace_stem_pool": (True,),
    "avg_down": (True,),
    "block_args": ({"attn_layer": "se"},),
    "unheard_of": (1,),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in OTHERS.items() for value in values])
def test_an_argument_that_makes_another_network_is_refused_by_name(load, name, value):
    with pytest.raises(
        LinftError, match=rf"config\.json says {name}=.*, which makes another network of resnet18"
    ) as error:
        load(changed(model_args={name: value}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("architecture", "arguments", "fits"),
    [
        ("mobilenetv1_100", {"act_layer": "relu6"}, True),
        ("mobilenetv1_100", {"act_layer": "relu"}, False),
        ("resnetv2_50x1_bit", {"stem_type": "fixed"}, True),
        ("resnetv2_50x1_bit", {"stem_type": ""}, False),
        ("resnetv2_50", {"stem_type": "fixed"}, False),
        ("inception_v4", {"norm_eps": 1e-3}, True),
        ("inception_v4", {"norm_eps": 1e-5}, False),
    ],
)
def test_what_an_argument_means_depends_on_the_family(tmp_path, architecture, arguments, fits):
    settings = {"architecture": architecture, "model_args": arguments}
    if fits:
        assert model_args(settings, tmp_path) == arguments
    else:
        with pytest.raises(LinftError, match=f"says {next(iter(arguments))}=.*, which makes another network of"):
            model_args(settings, tmp_path)


def test_a_network_of_grey_images_gets_grey_preprocessing(torch_resnet18, tmp_path):
    grey = {**torch_resnet18, "conv1.weight": torch_resnet18["conv1.weight"].sum(1, keepdims=True)}
    for size in ([3, 96, 80], [1, 96, 80]):  # timm leaves either; mean and std are those of colour images
        config = changed(model_args={"in_chans": 1}, input_size=size)
        (tmp_path / "config.json").write_text(json.dumps(config))
        save_file(grey, tmp_path / "model.safetensors")
        preprocessing = load_model(tmp_path / "model.safetensors").preprocessing
        assert preprocessing.input_size == (96, 80, 1)
        assert preprocessing.mean == pytest.approx((0.2,)) and preprocessing.std == pytest.approx((0.5,))
