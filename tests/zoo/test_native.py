"""Our own files: precision, class means, and metadata that must fit the arrays."""

import dataclasses
import json
from dataclasses import asdict

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import linft
from linft import load_model, save_model
from linft.core.base import ClassMeans
from linft.core.errors import LinftError
from linft.core.preprocessing import Preprocessing
from linft.models import create


@pytest.fixture(scope="module")
def model():
    means = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    small = create("cifar_resnet8", 4, jax.random.key(0), width=4)
    return small.replace(name="small", class_means=ClassMeans(means, np.array([3, 1, 4, 1], np.int32)))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_precision_of_a_file(model, tmp_path, dtype):
    path = tmp_path / "small.safetensors"
    save_model(model, path, dtype)
    loaded = load_model(path)
    for part in ("params", "batch_stats"):
        rounded = jax.tree.map(lambda a: np.asarray(a).astype(dtype).astype(np.float32), getattr(model, part))
        jax.tree.map(np.testing.assert_array_equal, getattr(loaded, part), rounded)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.params)} == {np.dtype(np.float32)}
    assert {array.dtype for key, array in load_file(path).items() if "counts" not in key} == {np.dtype(dtype)}
    np.testing.assert_array_equal(loaded.class_means.means, model.class_means.means.astype(dtype))
    np.testing.assert_array_equal(loaded.class_means.counts, [3, 1, 4, 1])


def test_a_model_without_class_means(model, tmp_path):
    save_model(model.replace(class_means=None), tmp_path / "small.safetensors")
    assert load_model(tmp_path / "small.safetensors").class_means is None


def test_adapters_are_written_folded_in(model, tmp_path):
    adapted = linft.lora(model, rank=2, key=jax.random.key(0))
    adapted = adapted.replace(params=jax.tree.map(lambda w: w + 0.1, adapted.params))
    save_model(adapted, tmp_path / "small.safetensors")
    assert load_model(tmp_path / "small.safetensors").digest == linft.merged(adapted).digest != model.digest


@pytest.mark.parametrize(("value", "dtype"), [(1e5, "float16"), (np.nan, "float32")])
def test_a_number_that_the_precision_cannot_hold(model, tmp_path, value, dtype):
    params = jax.tree.map(lambda a: a.at[..., 0].set(value), model.params)
    with pytest.raises(LinftError, match=rf"params/.* has (1e\+05|nan), which {dtype} cannot hold; use float32"):
        save_model(model.replace(params=params), tmp_path / "small.safetensors", dtype)
    assert not list(tmp_path.iterdir())


def test_another_precision(model, tmp_path):
    with pytest.raises(LinftError, match="dtype is 'float8'; choose float32 or float16"):
        save_model(model, tmp_path / "small.safetensors", "float8")


def test_a_directory_that_cannot_be_written(model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LinftError, match=r"cannot write .*small.safetensors .*; free some space or choose another dir"):
        save_model(model, tmp_path / "file" / "small.safetensors")


def with_metadata(path, change):
    """Change the metadata of a file of ours."""
    with safe_open(path, "np") as file:
        meta = json.loads(file.metadata()["linft"])
    text = change(meta)
    save_file(load_file(path), path, {"format": "linft-1", "linft": text or json.dumps(meta)})


DAMAGES = {
    "no JSON": (lambda meta: "{", "has damaged metadata .*; write it again with save_model"),
    "no architecture": (
        lambda meta: meta.pop("architecture") and None,
        r"has damaged metadata \(KeyError\('architecture'",
    ),
    "no source": (lambda meta: meta.update(source=None), "has damaged metadata .*write it again"),
    "no size": (lambda meta: meta["preprocessing"].pop("input_size") and None, "has damaged metadata .*input_size"),
    "another head": (
        lambda meta: meta.update(num_classes=10),
        r"has a head of 4 outputs and metadata for 10 classes; .* model.with_head\(10, …\)",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_refuses_metadata_with(model, tmp_path, damage):
    change, message = DAMAGES[damage]
    path = tmp_path / "small.safetensors"
    save_model(model, path)
    with_metadata(path, change)
    with pytest.raises(LinftError, match=message) as error:
        load_model(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("arch", ["cifar_resnet8", "inception_v4"])
def test_a_network_of_grey_images(tmp_path, arch):
    grey = Preprocessing((75, 75, 1), (0.3,), (0.25,))
    blocks = {} if arch == "cifar_resnet8" else {"blocks": (1, 1, 1)}
    model = create(arch, 3, jax.random.key(0), grey, width=4, **blocks)
    save_model(model, tmp_path / "grey.safetensors")
    loaded = load_model(tmp_path / "grey.safetensors")
    assert loaded.preprocessing == grey
    jax.tree.map(np.testing.assert_array_equal, loaded.params, model.params)


def test_preprocessing_of_other_channels_than_the_weights(model, tmp_path):
    grey = Preprocessing((32, 32, 1), (0.3,), (0.25,))
    colour = dataclasses.replace(grey, input_size=(32, 32, 3), mean=(0.3,) * 3, std=(0.25,) * 3)
    save_model(create("cifar_resnet8", 4, jax.random.key(0), grey, width=4), tmp_path / "grey.safetensors")
    with_metadata(tmp_path / "grey.safetensors", lambda meta: meta.update(preprocessing=asdict(colour)))
    assert load_model(tmp_path / "grey.safetensors").preprocessing == grey
    save_model(model.replace(preprocessing=grey), tmp_path / "small.safetensors")
    with pytest.raises(LinftError, match=r"small.safetensors takes images of 3 channels and is said to need 1"):
        load_model(tmp_path / "small.safetensors")
