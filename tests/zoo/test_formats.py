"""The same network comes out of every kind of file; damaged and dangerous ones are refused in one line."""

import argparse
import pickle
import sys
import zipfile

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from linft import load_model
from linft.core.errors import LinftError
from linft.models import registry
from linft.zoo.tensors import open_tensors


@pytest.fixture
def torch():
    """Torch, where it is installed."""
    return pytest.importorskip("torch", reason="torch is not installed")


def as_torch(torch, state):
    return {key: torch.from_numpy(array.copy()) for key, array in state.items()}


@pytest.fixture
def expected(torch_resnet18, tmp_path):
    save_file(torch_resnet18, tmp_path / "expected.safetensors")
    return load_model(tmp_path / "expected.safetensors")


def assert_same(model, expected, dtype=np.float32):
    """Equal weights, up to the precision of the file."""
    assert {leaf.dtype for leaf in jax.tree.leaves((model.params, model.batch_stats))} == {np.dtype(np.float32)}
    rounded = jax.tree.map(lambda a: np.asarray(a).astype(dtype).astype(np.float32), expected.params)
    jax.tree.map(np.testing.assert_array_equal, model.params, rounded)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_safetensors_of_other_precision(torch_resnet18, expected, tmp_path, dtype):
    save_file({key: array.astype(dtype) for key, array in torch_resnet18.items()}, tmp_path / "net.safetensors")
    assert_same(load_model(tmp_path / "net.safetensors"), expected, dtype)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(torch_resnet18, expected, tmp_path, save):
    save(tmp_path / "net.npz", **torch_resnet18)
    assert_same(load_model(tmp_path / "net.npz"), expected)


def test_npz_is_read_one_array_at_a_time(tmp_path, monkeypatch):
    np.savez(tmp_path / "net.npz", **{f"unit{i}/kernel": np.full((2, 3), i) for i in range(20)})
    read = []
    original = np.lib.format.read_array
    monkeypatch.setattr(np.lib.format, "read_array", lambda file, **k: read.append(file.name) or original(file, **k))
    tensors = open_tensors(tmp_path / "net.npz")
    assert dict(tensors.shapes) == {f"unit{i}/kernel": (2, 3) for i in range(20)}
    np.testing.assert_array_equal(tensors["unit7/kernel"], np.full((2, 3), 7))
    assert set(read) <= {"unit0/kernel.npy", "unit7/kernel.npy"}  # the first is seen by what checks types in tests


def test_npz_objects_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "net.npz", plain=np.ones(2), objects=np.array([{}], dtype=object))
    with pytest.raises(LinftError, match=r"net.npz is not a readable \.npz file of plain arrays .*allow_pickle=False"):
        open_tensors(tmp_path / "net.npz")["objects"]


def test_damaged_npz(torch_resnet18, tmp_path):
    path = tmp_path / "net.npz"
    np.savez(path, **torch_resnet18)
    whole = path.read_bytes()
    message = r"net.npz is not a readable \.npz file of plain arrays .*; was it cut short\?"
    path.write_bytes(whole[:-100])
    with pytest.raises(LinftError, match=message):
        open_tensors(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"no array")
    with pytest.raises(LinftError, match=message):
        open_tensors(path)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    with pytest.raises(LinftError, match=message):
        load_model(path)


WRAPPINGS = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"epoch": 90, "state_dict": state},
    "model": lambda state: {"model": state, "best": 0.7},
    "options": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1), "best": np.float64(0.7)},
    "optimizer": lambda state: {"net": state, "optimizer": {"state": {0: {"exp_avg": state["conv1.weight"]}}}},
    "average": lambda state: {
        "state_dict": {key: 0 * value for key, value in state.items()},
        "state_dict_ema": {f"module.{key}": value for key, value in state.items()},
    },
    "data parallel": lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_torch_files_however_wrapped(torch, torch_resnet18, expected, tmp_path, wrapping):
    for name in ("net.pth", "net.pth.tar", "net.ckpt", "net.PT", "net.bin"):
        torch.save(WRAPPINGS[wrapping](as_torch(torch, torch_resnet18)), tmp_path / name)
        model = load_model(tmp_path / name)
        assert model.name == "net"
        assert_same(model, expected)


def test_torch_files_of_the_old_format_and_of_half_precision(torch, torch_resnet18, expected, tmp_path):
    halves = {key: tensor.bfloat16() for key, tensor in as_torch(torch, torch_resnet18).items()}
    torch.save(halves, tmp_path / "net.pt", _use_new_zipfile_serialization=False)
    assert_same(load_model(tmp_path / "net.pt"), expected, ml_dtypes.bfloat16)


def test_torch_files_that_are_no_state_dict(torch, torch_resnet18, tmp_path):
    path = tmp_path / "net.pth"
    torch.save([1, 2], path)
    with pytest.raises(LinftError, match=r"net.pth holds no state dict of tensors .*; save model.state_dict\(\)"):
        load_model(path)
    torch.save({"epoch": 3, "loss": [0.1]}, path)
    with pytest.raises(LinftError, match=r"net.pth holds no state dict of tensors \(only epoch, loss\)"):
        load_model(path)
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(
        LinftError, match=r"net.pth is a pickle, and loading one can run any code: it holds more than tensors \(torch"
    ):
        load_model(path)
    torch.save(as_torch(torch, torch_resnet18), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(LinftError, match=r"net.pth .*"):
        load_model(path)


def test_torch_files_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "net.pth").write_bytes(pickle.dumps({}))
    with pytest.raises(
        LinftError, match=r"net.pth is a pickle, .* any code; install torch, .* or convert it to safete"
    ):
        load_model(tmp_path / "net.pth")


def test_a_file_of_no_known_kind(tmp_path):
    (tmp_path / "net.h5").touch()
    with pytest.raises(
        LinftError, match=r"net.h5 is of no known kind; weights are read from \.safetensors, \.npz, \.pth"
    ):
        load_model(tmp_path / "net.h5")


def test_a_directory(torch_resnet18, expected, tmp_path):
    (tmp_path / "mine").mkdir()
    save_file(torch_resnet18, tmp_path / "mine" / "model.safetensors")
    model = load_model(tmp_path / "mine")
    assert model.name == "mine"
    assert_same(model, expected)
    with pytest.raises(
        LinftError, match=r"no model '.*'; give hf:OWNER/NAME, a file, a directory with model.safetensors"
    ):
        load_model(tmp_path / "mine" / "..")


def test_a_state_dict_without_its_head(torch_resnet18, tmp_path):
    backbone = {key: array for key, array in torch_resnet18.items() if not key.startswith("fc")}
    save_file(backbone, tmp_path / "net.safetensors")
    message = r"net.safetensors looks like resnet18 without its head .*num_classes=0.*model.with_head"
    with pytest.raises(LinftError, match=message) as error:
        load_model(tmp_path / "net.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("channels", [1, 4])
def test_input_channels_are_those_of_the_first_kernel(torch_resnet18, tmp_path, channels):
    kernel = np.random.default_rng(0).normal(size=(4, channels, 7, 7)).astype(np.float32)
    save_file({**torch_resnet18, "conv1.weight": kernel}, tmp_path / "net.safetensors")
    if channels == 4:
        with pytest.raises(LinftError, match=r"net.safetensors takes images of 4 channels .* must be 1 \(grey\) or 3"):
            load_model(tmp_path / "net.safetensors")
        return
    model = load_model(tmp_path / "net.safetensors")
    mean = sum(registry.IMAGENET.mean) / 3
    assert model.preprocessing.input_size == (224, 224, 1) and model.preprocessing.mean == (mean,)
    images = np.random.default_rng(1).integers(0, 256, (2, 40, 40, 3), np.uint8)
    assert np.isfinite(model.logits_of(images)).all()
