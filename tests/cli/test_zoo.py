"""`linft zoo` as a user types it."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import linft
from linft.models.registry import ARCHITECTURES

COMMAND = ("zoo",)


@pytest.fixture(scope="module")
def small():
    model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=4)
    return model.replace(name="small", source={"data": "birds", "test_accuracy": 0.75, "class_names": ["owl", "tit"]})


@pytest.fixture
def zoo(small, tmp_path):
    linft.save_model(small, tmp_path / "zoo" / "small.safetensors")
    return tmp_path / "zoo"


def test_list(call, zoo):
    (zoo / "torn.safetensors").write_bytes(b"torn")
    lines = call("list", "--zoo", zoo).splitlines()
    (row,) = (line.split() for line in lines if " small " in line)
    assert row[:5] == ["small", "cifar_resnet8", "birds", "10", "75.0%"]
    (failed,) = (line for line in lines if line.startswith("torn failed: "))
    assert "not a readable safetensors file" in failed


def test_list_without_a_directory_is_the_zoo_that_comes_with_the_package(call):
    assert "resnet14-cifar10" in call("list")


def test_list_architectures(call):
    first = {line.split()[0] for line in call("list", "--architectures").splitlines() if line.strip()}
    assert set(ARCHITECTURES) <= first


def test_show(call, zoo):
    text = call("show", "small", "--zoo", zoo)
    head = load_file(zoo / "small.safetensors")["params/head/kernel"].size + 10
    for line in ("architecture: cifar_resnet8", "  width: 4", f"  head: {head}", "  input size: 32, 32, 3"):
        assert line in text.splitlines()
    assert "  class names: owl, tit" in text
    assert "class means: none" in text


def test_import_keeps_what_a_file_and_its_config_tell(call, shared, tmp_path):
    weights = tmp_path / "downloaded"
    weights.mkdir()
    public = load_file(shared / "weights" / "resnet20_cifar10_akamaster.safetensors")
    save_file(public, weights / "model.safetensors")
    said = call("import", weights, "--zoo", tmp_path / "zoo", "--name", "public", "--dtype", "float16")
    assert said == f"public: 10 classes, written to {tmp_path / 'zoo' / 'public.safetensors'}\n"
    before, after = linft.load_model(weights), linft.load_model(tmp_path / "zoo" / "public.safetensors")
    assert after.name == "public"
    assert (after.preprocessing, after.architecture) == (before.preprocessing, before.architecture)
    assert json.loads(json.dumps(before.source)) == after.source
    np.testing.assert_allclose(after.params["head"]["kernel"], before.params["head"]["kernel"], rtol=1e-3)
    assert "source: birds" not in call("import", weights, "--zoo", tmp_path / "zoo", "--data", "birds")
    assert linft.load_model(tmp_path / "zoo" / "downloaded.safetensors").source["data"] == "birds"


def test_add_measures_on_the_task(call, zoo, tmp_path):
    digits = linft.load_task("digits").subset(40, 20)
    parts = {name: getattr(digits, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(tmp_path / "few.npz", **parts)
    said = call(
        "add", zoo / "small.safetensors", "--zoo", zoo, "--task", f"npz:{tmp_path / 'few.npz'}", "--name", "few"
    )
    model = linft.load_model(zoo / "few.safetensors")
    logits = np.asarray(model.apply(model.params, model.preprocess(digits.x_test)))
    accuracy = np.mean(logits.argmax(1) == digits.y_test)
    assert model.source["test_accuracy"] == pytest.approx(accuracy, abs=1e-4)
    assert f"test accuracy {accuracy:.1%}" in said
    assert model.source["data"] == "few"
    assert len(model.source["class_names"]) == 10
    assert model.source["pretraining"]["data"] == "birds"
    assert "recipe" not in model.source
    features = np.asarray(model.features(model.params, model.preprocess(digits.x_train)))
    means, counts = model.class_means
    np.testing.assert_array_equal(counts, np.bincount(digits.y_train))
    np.testing.assert_allclose(means[3], features[digits.y_train == 3].mean(0), rtol=1e-4, atol=1e-5)


def test_add_replaces_only_when_told(call, zoo, small):
    source = zoo / "small.safetensors"
    with pytest.raises(SystemExit):
        call("add", source, "--zoo", zoo, "--data", "frogs")
    assert linft.load_model(source).source == small.source
    call("add", source, "--zoo", zoo, "--data", "frogs", "--overwrite")
    assert linft.load_model(source).source == {**small.source, "data": "frogs"}


BAD = {
    "no such zoo": (["list", "--zoo", "{tmp}/nowhere"], "no zoo at"),
    "no such name": (["show", "large", "--zoo", "{tmp}/zoo"], "no model 'large' in"),
    "a torn file": (["show", "torn", "--zoo", "{tmp}/zoo"], "was it cut short?"),
    "no such file": (["import", "{tmp}/nowhere.npz", "--zoo", "{tmp}/zoo"], "no model"),
    "foreign keys": (["import", "{tmp}/keys.safetensors", "--zoo", "{tmp}/new"], "no importer knows the keys"),
    "a pickle": (["import", "{tmp}/net.pkl", "--zoo", "{tmp}/new"], "is a pickle, and loading one can run any code"),
    "no number": (["import", "{tmp}/nan.safetensors", "--zoo", "{tmp}/new"], "values that are not finite"),
    "a slash": (["import", "resnet14-cifar10", "--zoo", "{tmp}/new", "--name", "a/b"], "cannot be a model's name"),
    "a taken name": (["add", "{tmp}/zoo/small.safetensors", "--zoo", "{tmp}/zoo"], "exists already"),
    "a file for a zoo": (["add", "resnet14-cifar10", "--zoo", "{tmp}/net.pkl"], "cannot write"),
    "another task": (
        ["add", "{tmp}/four.safetensors", "--zoo", "{tmp}/new", "--task", "digits"],
        "the model has 4 outputs and the task 10 classes; use model.with_head(10",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case, small, zoo, call, tmp_path, capsys):
    (zoo / "torn.safetensors").write_bytes((zoo / "small.safetensors").read_bytes()[:-10])
    save_file({"w": np.zeros(2)}, tmp_path / "keys.safetensors")
    (tmp_path / "net.pkl").touch()
    linft.save_model(small.with_head(4, jax.random.key(0)), tmp_path / "four.safetensors")
    torn = load_file(zoo / "small.safetensors")
    torn["params/head/bias"][0] = np.nan
    meta = {"format": "linft-1", "linft": json.dumps(_metadata(zoo / "small.safetensors"))}
    save_file(torn, tmp_path / "nan.safetensors", meta)
    arguments, message = BAD[case]
    with pytest.raises(SystemExit) as stopped:
        call(*(argument.format(tmp=tmp_path) for argument in arguments))
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in error
    assert error.startswith("linft: ")
    assert error.count("\n") == 1


def _metadata(path):
    from linft.zoo.directory import opened

    return opened(path)[1]
