"""Networks are told apart by their keys and shapes, in today's spelling and torchvision's first."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import linft
from linft.core.errors import LinftError
from linft.zoo.load import IMPORTERS
from linft.zoo.tensors import Tensors

GROWTH, WIDTH, BOTTLENECK, LAYERS = 2, 6, 3, (2, 1, 1, 1)


def densenet() -> dict[str, np.ndarray]:
    """The state dict of a small DenseNet of torchvision, at random."""
    shapes: dict[str, tuple[int, ...]] = {"features.conv0.weight": (WIDTH, 3, 7, 7)}
    norms, channels = {"features.norm0": WIDTH}, WIDTH
    for stage, layers in enumerate(LAYERS, start=1):
        for layer in range(1, layers + 1):
            name = f"features.denseblock{stage}.denselayer{layer}"
            shapes[f"{name}.conv1.weight"] = (BOTTLENECK * GROWTH, channels, 1, 1)
            shapes[f"{name}.conv2.weight"] = (GROWTH, BOTTLENECK * GROWTH, 3, 3)
            norms |= {f"{name}.norm1": channels, f"{name}.norm2": BOTTLENECK * GROWTH}
            channels += GROWTH
        if stage < 4:
            norms[f"features.transition{stage}.norm"] = channels
            shapes[f"features.transition{stage}.conv.weight"] = (channels // 2, channels, 1, 1)
            channels //= 2
    norms["features.norm5"] = channels
    shapes |= {"classifier.weight": (4, channels), "classifier.bias": (4,)}
    for name, size in norms.items():
        shapes |= {f"{name}.{leaf}": (size,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    rng = np.random.default_rng(0)
    return {key: rng.uniform(size=shape).astype(np.float32) for key, shape in shapes.items()}


def load(state: dict[str, np.ndarray], path: Path) -> linft.Model:
    save_file(state, path)
    return linft.load_model(path)


def test_a_narrow_densenet_keeps_its_sizes_as_options(tmp_path):
    model = load(densenet(), tmp_path / "narrow.safetensors")
    options = {"layers": LAYERS, "growth": GROWTH, "width": WIDTH, "bottleneck": BOTTLENECK}
    assert model.architecture == {"name": "densenet121", "options": options}
    linft.save_model(model, tmp_path / "ours.safetensors")
    again = linft.load_model(tmp_path / "ours.safetensors")
    assert again.architecture == model.architecture
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


def test_torchvisions_first_spelling_is_the_same_network(tmp_path):
    now = densenet()
    first = {re.sub(r"(denselayer\d\.(?:norm|conv))(\d)", r"\1.\2", key): value for key, value in now.items()}
    assert "features.denseblock1.denselayer2.norm.1.running_var" in first
    models = load(now, tmp_path / "now.safetensors"), load(first, tmp_path / "first.safetensors")
    assert models[0].architecture == models[1].architecture
    jax.tree.map(np.testing.assert_array_equal, *((m.params, m.batch_stats) for m in models))


def test_a_densenet_with_another_stem_is_refused(tmp_path):
    state = densenet() | {"features.conv1.weight": np.zeros((6, 6, 3, 3), np.float32)}
    with pytest.raises(LinftError, match=r"features\.conv1/kernel is unknown"):
        load(state, tmp_path / "deep_stem.safetensors")


# Networks with no importer, by keys that they share with those of ours, and some that they do not.
RELATIVES = {
    "vgg11": ("features.0.weight", "features.3.weight", "features.6.weight", "classifier.0.weight"),
    "squeezenet1_0": ("features.0.weight", "features.10.squeeze.weight", "classifier.1.weight"),
    "mobilenetv2_100": (
        "conv_stem.weight",
        "classifier.weight",
        "blocks.4.1.conv_dw.weight",
        "blocks.4.1.conv_pwl.weight",
    ),
    "inception_v3": ("Conv2d_1a_3x3.conv.weight", "Mixed_5b.branch1x1.conv.weight", "fc.weight"),
    "inception_resnet_v2": ("conv2d_1a.conv.weight", "mixed_5b.branch0.conv.weight", "classif.weight"),
}


@pytest.mark.parametrize("name", RELATIVES)
def test_leaves_relatives_alone(name):
    keys = dict.fromkeys(RELATIVES[name], (8, 8, 3, 3))
    tensors = Tensors(Path(name), keys, lambda key: np.zeros(keys[key]))
    assert [importer.architecture(tensors) for importer in IMPORTERS] == [None] * len(IMPORTERS)
