"""The zoo that comes with the package: what it holds, what is known of each model, and that it is true."""

import numpy as np
import pytest

from linft import load_model, load_task
from linft.training.pretrain import measured
from linft.zoo.directory import entries
from linft.zoo.load import SHIPPED

FILES = {
    "cifar10": "cifar10_32",
    "gtsrb": "gtsrb_32",
    "ucmerced16": "ucmerced16_32",
    "sign_digits": "sign_digits_32",
    "mnist": "mnist_28",
    "omniglot": "omniglot_small_32",
    "imagenet_coarse": "imagenet_sample_coarse_32",
    "fashion": "fashion_mnist_sprite_28",
}
LEFT_OUT = {"densenet22-gtsrb"}  # below the floor: experiments/results/zoo/laptop/tables.md
QUICK = ("resnet14-fashion", "multibn5-imagenet_coarse")
EVERY = sorted(path.stem for path in SHIPPED.glob("*.safetensors"))


def test_two_networks_on_eight_sources_from_two_starts_in_twelve_megabytes():
    names = {entry.name for entry in entries(SHIPPED)}
    assert names == set(EVERY)
    wanted = {f"{network}-{source}" for network in ("resnet14", "densenet22") for source in FILES}
    wanted |= {name.replace("-", "-cifar10-") for name in wanted if not name.endswith("cifar10")}
    assert wanted - names == LEFT_OUT
    assert {name for name in names - wanted if name.startswith("multibn5-")} == names - wanted
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 12e6


@pytest.mark.parametrize("name", EVERY)
def test_what_selection_needs_is_known(name):
    model = load_model(name)
    assert model.name == name and model.source["data"] in FILES
    assert model.num_classes == len(model.source["class_names"]) == len(model.class_means.counts)
    assert model.class_means.counts.sum() == model.source["train_images"]
    assert np.isfinite(model.class_means.means).all() and (model.class_means.counts > 0).all()
    assert model.source["recipe"]["batch_norm"] == "train"
    assert model.source["citation"]
    if "-cifar10-" in name:
        assert model.source["init"] == name.rpartition("-")[0]


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in EVERY]
)
def test_the_recorded_accuracy_is_that_of_the_shipped_weights(shared, name):
    model = load_model(name)
    found = measured(model, load_task(f"npz:{shared / 'data' / FILES[model.source['data']]}.npz"))
    images = found.source["test_images"]
    for key in ("test_accuracy", "balanced_accuracy"):  # half precision may move an image or two
        assert found.source[key] == pytest.approx(model.source[key], abs=max(0.003, 2.5 / images))
    scale = np.abs(found.class_means.means).max()
    np.testing.assert_allclose(model.class_means.means, found.class_means.means, atol=5e-3 * scale)
    np.testing.assert_array_equal(model.class_means.counts, found.class_means.counts)
