"""Files of residual networks: their depth, block and width are read off the keys; loading takes little memory."""

import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from linft import load_model, save_model
from linft.core.errors import LinftError


def norm(name, width):
    return {f"{name}.{leaf}": np.ones(width, np.float32) for leaf in ("weight", "bias", "running_mean", "running_var")}


def resnet(blocks, bottleneck=True, width=64, factor=1, classes=10):
    """A state dict with the keys and shapes of torchvision's ResNets, all ones."""
    ones = lambda *shape: np.ones(shape, np.float32)  # noqa: E731
    state = {"conv1.weight": ones(width, 3, 7, 7), "bn1.num_batches_tracked": np.array(0)} | norm("bn1", width)
    channels = width
    for stage, count in enumerate(blocks):
        planes = width * 2**stage
        inner, outer = (planes * factor, planes * 4) if bottleneck else (planes, planes)
        for block in range(count):
            at = f"layer{stage + 1}.{block}"
            if bottleneck:
                shapes = [(inner, channels, 1, 1), (inner, inner, 3, 3), (outer, inner, 1, 1)]
            else:
                shapes = [(inner, channels, 3, 3), (outer, inner, 3, 3)]
            for i, shape in enumerate(shapes, start=1):
                state |= {f"{at}.conv{i}.weight": ones(*shape)} | norm(f"{at}.bn{i}", shape[0])
            if block == 0 and (stage > 0 or channels != outer):
                state |= {f"{at}.downsample.0.weight": ones(outer, channels, 1, 1)} | norm(f"{at}.downsample.1", outer)
            channels = outer
    return state | {"fc.weight": ones(classes, channels), "fc.bias": ones(classes)}


def bit(blocks, width=64, classes=10):
    """The arrays of a BiT `.npz`, with its keys and shapes, at random."""
    rng = np.random.default_rng(0)
    random = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    arrays = {"resnet/root_block/standardized_conv2d/kernel": random(7, 7, 3, width)}
    channels = width
    for stage, count in enumerate(blocks):
        inner = width * 2**stage
        for unit in range(count):
            at = f"resnet/block{stage + 1}/unit{unit + 1:02d}"
            for part, shape in {
                "a": (1, 1, channels, inner),
                "b": (3, 3, inner, inner),
                "c": (1, 1, inner, 4 * inner),
            }.items():
                arrays[f"{at}/{part}/standardized_conv2d/kernel"] = random(*shape)
                arrays |= {f"{at}/{part}/group_norm/{leaf}": random(shape[2]) for leaf in ("gamma", "beta")}
            if unit == 0:
                arrays[f"{at}/a/proj/standardized_conv2d/kernel"] = random(1, 1, channels, 4 * inner)
            channels = 4 * inner
    arrays |= {f"resnet/group_norm/{leaf}": random(channels) for leaf in ("gamma", "beta")}
    return arrays | {
        "resnet/head/conv2d/kernel": random(1, 1, channels, classes),
        "resnet/head/conv2d/bias": random(classes),
    }


RESNETS = {
    "the basic block": ({"blocks": (3, 4, 6, 3), "bottleneck": False, "width": 8}, "resnet34", {"width": 8}),
    "a bottleneck, full width": ({"blocks": (3, 4, 6, 3)}, "resnet50", {}),
    "a wide bottleneck": ({"blocks": (3, 4, 23, 3), "width": 4, "factor": 2}, "wide_resnet101_2", {"width": 4}),
    "another depth": ({"blocks": (1, 2, 1, 1), "width": 8}, "resnet50", {"width": 8, "blocks": (1, 2, 1, 1)}),
}


@pytest.mark.parametrize("case", RESNETS)
def test_depth_and_width_are_read_off_the_keys(case, tmp_path):
    shapes, name, options = RESNETS[case]
    save_file(resnet(**shapes), tmp_path / "network.safetensors")
    model = load_model(tmp_path / "network.safetensors")
    assert model.architecture == {"name": name, "options": options}
    assert model.num_classes == 10


def test_a_network_of_another_depth_is_saved_and_loaded(tmp_path):
    save_file(resnet((1, 2, 1, 1), width=8), tmp_path / "torch.safetensors")
    model = load_model(tmp_path / "torch.safetensors")
    save_model(model, tmp_path / "ours.safetensors")
    again = load_model(tmp_path / "ours.safetensors")
    assert again.architecture == model.architecture and again.module == model.module


def test_bit_archives_fill_the_network(tmp_path):
    arrays = bit((1, 2, 1, 1), width=32)
    np.savez(tmp_path / "bit.npz", **arrays)
    model = load_model(tmp_path / "bit.npz")
    assert model.architecture == {"name": "resnetv2_50x1_bit", "options": {"blocks": (1, 2, 1, 1), "width": 32}}
    unit = model.params["stage2"]["block1"]
    np.testing.assert_array_equal(unit["conv2"]["kernel"], arrays["resnet/block2/unit02/b/standardized_conv2d/kernel"])
    np.testing.assert_array_equal(unit["norm3"]["bias"], arrays["resnet/block2/unit02/c/group_norm/beta"])
    shortcut = model.params["stage2"]["block0"]["shortcut_conv"]["kernel"]
    np.testing.assert_array_equal(shortcut, arrays["resnet/block2/unit01/a/proj/standardized_conv2d/kernel"])
    np.testing.assert_array_equal(model.params["head"]["kernel"], arrays["resnet/head/conv2d/kernel"][0, 0])


WRONG = {
    "a group more": (
        lambda a: a.update({"resnet/block1/unit01/d/x": np.ones(2)}),
        "resnet/block1/unit01/d/x is unknown",
    ),
    "no last norm": (lambda a: a.pop("resnet/group_norm/beta"), "params/stage4/norm/bias is missing"),
    "no head": (lambda a: a.pop("resnet/head/conv2d/kernel"), "looks like resnetv2_50x1_bit without its head"),
}


@pytest.mark.parametrize("case", WRONG)
def test_refuses_a_bit_archive_with(case, tmp_path):
    change, message = WRONG[case]
    arrays = bit((1, 1, 1, 1), width=32)
    change(arrays)
    np.savez(tmp_path / "bit.npz", **arrays)
    with pytest.raises(LinftError, match=message) as error:
        load_model(tmp_path / "bit.npz")
    assert len(str(error.value).splitlines()) == 1


PEAK = """
import re, sys
import jax, jax.numpy as jnp
from linft.zoo.load import load_model

def kilobytes(field):
    return int(re.search(rf"{field}:\\s+(\\d+)", open("/proc/self/status").read())[1])

jax.block_until_ready(jnp.ones(3) + 1)  # the backend is there before
before = kilobytes("VmRSS")
jax.block_until_ready(load_model(sys.argv[1]).params)
print(1024 * (kilobytes("VmHWM") - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of resident memory is read from /proc")
def test_resnet101_is_loaded_in_two_and_a_half_times_its_file(tmp_path):
    path = tmp_path / "resnet101.safetensors"
    save_file(resnet((3, 4, 23, 3), classes=1000), path)
    found = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True)
    assert path.stat().st_size < int(found.stdout) < 2.5 * path.stat().st_size
