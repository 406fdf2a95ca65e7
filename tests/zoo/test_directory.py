"""What a zoo says of its files without reading their weights."""

import numpy as np
import pytest
from narrow import small_resnet
from safetensors.numpy import save_file

from linft import save_model
from linft.core.errors import LinftError
from linft.core.trees import count
from linft.zoo.directory import entries, existing, group_sizes, opened, path_of, unused


@pytest.fixture(scope="module")
def model():
    model = small_resnet(4)
    return model.replace(name="small", source={"data": "birds", "test_accuracy": 0.75})


def test_entries_are_by_name_and_say_what_the_models_are(model, tmp_path):
    save_model(model, tmp_path / "b.v2.safetensors")
    save_model(model.replace(source={}), tmp_path / "a.safetensors")
    (tmp_path / "notes.txt").touch()
    a, b = entries(tmp_path)
    assert (a.name, b.name) == ("a", "b.v2")
    assert (b.architecture, b.num_classes, b.data, b.accuracy) == ("resnet18", 4, "birds", 0.75)
    assert (a.data, a.accuracy, a.failed) == ("", None, "")
    assert b.parameters == count(model.params)
    assert b.bytes == b.path.stat().st_size


def test_parameters_of_each_group(model, tmp_path):
    save_model(model, tmp_path / "a.safetensors")
    sizes = group_sizes(*opened(tmp_path / "a.safetensors"))
    assert sizes == {group: count(model.params[group]) for group in model.stages}


def test_failed_files_are_listed_with_the_reason(model, tmp_path):
    save_model(model, tmp_path / "short.safetensors")
    (tmp_path / "short.safetensors").write_bytes((tmp_path / "short.safetensors").read_bytes()[:-10])
    save_file({"w": np.zeros(2)}, tmp_path / "foreign.safetensors")
    save_model(model.replace(architecture={"name": "resnet7", "options": {}}), tmp_path / "unknown.safetensors")
    save_model(model, tmp_path / "good.safetensors")
    reasons = {entry.name: entry.failed for entry in entries(tmp_path)}
    assert list(reasons) == ["foreign", "good", "short", "unknown"]
    assert "no metadata of ours; bring it into a zoo by `linft zoo import`" in reasons["foreign"]
    assert "was it cut short?" in reasons["short"]
    assert "no architecture 'resnet7'" in reasons["unknown"]
    assert not reasons["good"]


def test_names(model, tmp_path):
    with pytest.raises(LinftError, match=r"no model 'a' in .*; it holds nothing"):
        existing(tmp_path, "a")
    save_model(model, unused(tmp_path, "a"))
    assert existing(tmp_path, "a") == path_of(tmp_path, "a")
    with pytest.raises(LinftError, match=r"no model 'b' in .*; it holds a"):
        existing(tmp_path, "b")
    with pytest.raises(LinftError, match=r"a.safetensors exists already; choose another --name, or delete it first"):
        unused(tmp_path, "a")
    for name in ("", "../a", ".a", "x\\a"):
        with pytest.raises(LinftError, match="cannot be a model's name in a zoo"):
            path_of(tmp_path, name)
    with pytest.raises(LinftError, match=r"no zoo at .*nowhere; make one by"):
        entries(tmp_path / "nowhere")
