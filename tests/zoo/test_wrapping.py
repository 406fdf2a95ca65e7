"""A network is found under whatever was put around its state dict; averages are taken, and what is in doubt is told."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from linft import load_model
from linft.core.errors import LinftError


def under(prefix, state):
    """A state dict within a dict, or in a module within a module: its keys after a prefix."""
    return {prefix + key: array for key, array in state.items()}


def zeros(state):
    return {key: np.zeros_like(array) for key, array in state.items()}


def without_head(state):
    return {key: array for key, array in state.items() if not key.startswith("fc.")}


@pytest.fixture
def load(tmp_path):
    def load(state):
        save_file(state, tmp_path / "net.safetensors")
        return load_model(tmp_path / "net.safetensors")

    return load


@pytest.fixture
def expected(torch_resnet18, tmp_path):
    save_file(torch_resnet18, tmp_path / "expected.safetensors")
    return load_model(tmp_path / "expected.safetensors")


def assert_same(model, expected):
    for ours, theirs in ((model.params, expected.params), (model.batch_stats, expected.batch_stats)):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


PREFIXES = (
    "module.",
    "_orig_mod.module.",
    "net.",
    "base_model.model.",
    "state_dict.model.",
    "teacher.backbone.",
    "w/0.",
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_prefix(torch_resnet18, load, expected, prefix):
    """Also beside an optimizer's averages, which have the keys of weights."""
    optimizer = under("optimizer.state.exp_avg.", zeros(torch_resnet18))
    model = load(under(prefix, torch_resnet18) | optimizer | {"epoch": np.array(3), "queue": np.ones((4, 4))})
    assert_same(model, expected)
    assert "weights" not in model.source


@pytest.mark.parametrize(
    ("raw", "average"),
    [
        ("state_dict.", "state_dict_ema."),
        ("model.", "model_ema.module."),
        ("state_dict.model.", "state_dict.ema_model.module."),
        ("net.", "swaModel."),
        ("student.module.backbone.", "teacher.backbone."),
        ("", "ema."),
    ],
)
def test_of_weights_and_their_average_the_average_is_taken_and_said(
    torch_resnet18, load, expected, caplog, raw, average
):
    model = load(under(raw, zeros(torch_resnet18)) | under(average, torch_resnet18))
    assert_same(model, expected)
    said = f"the averaged weights under {average.rstrip('.')} are taken, not those under {raw.rstrip('.') or 'no key'}"
    assert model.source["weights"] == said
    assert said in caplog.text and "net.safetensors" in caplog.text


def test_torchs_averaged_model_is_told_by_its_counter(torch_resnet18, load, expected):
    averaged = under("second.module.", torch_resnet18) | {"second.n_averaged": np.array(5)}
    model = load(under("first.", zeros(torch_resnet18)) | averaged)
    assert_same(model, expected)
    assert model.source["weights"].startswith("the averaged weights under second.module are taken")


def test_an_average_of_parameters_alone_has_the_batch_statistics_of_the_weights(torch_resnet18, load, expected):
    parameters = {k: v for k, v in torch_resnet18.items() if "running" not in k and "num_batches" not in k}
    raw = torch_resnet18 | {key: np.zeros_like(array) for key, array in parameters.items()}
    model = load(under("model.", raw) | under("ema.shadow.", parameters))
    assert_same(model, expected)
    assert "under ema.shadow are taken, with the batch statistics beside them" in model.source["weights"]


def test_the_same_network_twice_is_no_question(torch_resnet18, load, expected):
    assert_same(load(under("model.", torch_resnet18) | under("attacker.model.", torch_resnet18)), expected)


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        ("", "fc.1"),
        ("", "last_linear"),
        ("module.", "module.classifier.0"),
        ("state_dict.backbone.", "state_dict.head.fc"),
        ("model.encoder.net.", "model.new_fc"),
    ],
)
def test_a_head_of_another_name_or_beside_its_backbone(torch_resnet18, load, expected, backbone, head):
    layer = {f"{head}.{leaf}": torch_resnet18[f"fc.{leaf}"] for leaf in ("weight", "bias")}
    assert_same(load(under(backbone, without_head(torch_resnet18)) | layer), expected)


def test_refusals_name_what_is_there(torch_resnet18, load):
    backbone = without_head(torch_resnet18)
    weights = lambda outputs, inputs: np.ones((outputs, inputs), np.float32)  # noqa: E731
    refused = {
        "no importer knows the keys of .*net.safetensors, such as a.weight, b.bias": {
            "a.weight": weights(2, 2),
            "b.bias": weights(2, 2),
        },
        "holds 2 networks, under first, second; save the state dict of the one that is meant": under(
            "first.", torch_resnet18
        )
        | under("second.", zeros(torch_resnet18)),
        "holds 3 networks, under ema, net, swa": under("net.", torch_resnet18)
        | under("ema.", zeros(torch_resnet18))
        | under("swa.", zeros(torch_resnet18)),
        r"resnet18 without its head .*; fc\.0\.weight, fc\.2\.weight is not one linear layer": backbone
        | {"fc.0.weight": weights(32, 32), "fc.2.weight": weights(8, 32)},
        r"without its head .*; teacher\.head\.mlp\.weight is not one": under("teacher.backbone.", backbone)
        | {"teacher.head.mlp.weight": weights(4, 4)},
        r"without its head .*; fc\.1\.running_mean, fc\.1\.weight is not one": backbone
        | {"fc.1.weight": weights(5, 32), "fc.1.running_mean": weights(1, 5)[0]},
    }
    for message, state in refused.items():
        with pytest.raises(LinftError, match=message) as error:
            load(state)
        assert "\n" not in str(error.value)


def test_networks_of_two_kinds_are_not_a_network_and_its_average(torch_resnet18, load):
    deeper = torch_resnet18 | {
        key.replace("layer1.1.", "layer1.2."): array for key, array in torch_resnet18.items() if "layer1.1." in key
    }
    with pytest.raises(LinftError, match="holds 2 networks, under student, teacher"):
        load(under("student.", torch_resnet18) | under("teacher.", deeper))
