"""`linft pretrain` and `linft pretrain-domains` as a user types them."""

from functools import partial

import jax
import numpy as np
import pytest

import linft
from linft.zoo.class_means import class_means

COMMAND = ()  # there are two
QUICK = ("--options", "width", "4", "--steps", "3", "--batch-size", "20")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two tasks in files: 60 digits, and the first half of their classes in negative."""
    task = linft.load_task("digits").subset(60, 30)
    directory = tmp_path_factory.mktemp("data")
    keys = ("x_train", "y_train", "x_test", "y_test")
    np.savez(directory / "positive.npz", **{key: getattr(task, key) for key in keys})
    train, test = task.y_train < 5, task.y_test < 5
    parts = (255 - task.x_train[train], task.y_train[train], 255 - task.x_test[test], task.y_test[test])
    np.savez(directory / "negative.npz", **dict(zip(keys, parts, strict=True)))
    return directory


def pretrain(data, zoo, *more):
    return ("pretrain", "--task", f"npz:{data}/positive.npz", "--zoo", zoo, *QUICK, *more)


def test_an_expert_and_all_that_is_known_of_it(call, data, tmp_path):
    said = call(*pretrain(data, tmp_path, "--model", "cifar_resnet8", "--citation", "Alpaydin 1998"))
    model = linft.load_model(tmp_path / "cifar_resnet8-positive.safetensors")
    task = linft.load_task(f"npz:{data}/positive.npz")
    right = np.asarray(model.logits_of(task.x_test).argmax(1) == task.y_test)
    assert f"cifar_resnet8-positive: test accuracy {right.mean():.1%}, balanced" in said
    assert model.source["test_accuracy"] == pytest.approx(right.mean(), abs=1e-4)
    balanced = np.mean([right[task.y_test == c].mean() for c in np.unique(task.y_test)])
    assert model.source["balanced_accuracy"] == pytest.approx(balanced, abs=1e-4)
    assert model.source["data"] == "positive" and model.source["citation"] == "Alpaydin 1998"
    assert model.source["class_names"] == list(task.class_names)
    assert model.source["recipe"]["steps"] == 3 and model.source["recipe"]["batch_norm"] == "train"
    means = class_means(model, task)
    np.testing.assert_allclose(model.class_means.means, means.means, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model.class_means.counts, means.counts)


@pytest.mark.slow
def test_another_model_is_where_it_starts(call, data, tmp_path):
    start = linft.models.create("cifar_resnet8", 7, jax.random.key(5), width=4).replace(name="start")
    linft.save_model(start, tmp_path / "start.safetensors")
    rate = ("--learning-rate", "1e-12", "--weight-decay", "0")
    call("pretrain", "--task", f"npz:{data}/negative.npz", "--init", tmp_path / "start.safetensors",
         "--zoo", tmp_path, "--name", "next", "--steps", "1", *rate)  # fmt: skip
    model = linft.load_model(tmp_path / "next.safetensors")
    assert model.num_classes == 5 and model.source["init"] == "start"
    close = partial(np.testing.assert_allclose, atol=1e-9)
    jax.tree.map(close, model.params["stage2"], start.params["stage2"])


@pytest.mark.slow
def test_every_domain_is_a_model_of_the_zoo(call, data, tmp_path):
    tasks = (f"npz:{data}/positive.npz", f"npz:{data}/negative.npz")
    said = call("pretrain-domains", "--tasks", *tasks, "--model", "cifar_resnet8", "--zoo", tmp_path, *QUICK)
    listed = call("zoo", "list", "--zoo", tmp_path)
    for name, classes in (("positive", 10), ("negative", 5)):
        model = linft.load_model(tmp_path / f"cifar_resnet8-multi-bn-{name}.safetensors")
        assert f"{model.name}: test accuracy {model.source['test_accuracy']:.1%}" in said and model.name in listed
        assert model.num_classes == classes and len(model.class_means.counts) == classes
        assert model.source["domains"] == ["positive", "negative"] and model.source["sharing"] == "multi-bn"


def test_refusals(refused, data, tmp_path):
    model = ("--model", "cifar_resnet8")
    assert "give either --model (an architecture" in refused(*pretrain(data, tmp_path))
    assert "give either --model (an architecture" in refused(*pretrain(data, tmp_path, *model, "--init", "x"))
    assert "no architecture 'resnet9'; choose among" in refused(*pretrain(data, tmp_path, "--model", "resnet9"))
    assert "cannot be built with the options {'size': 4" in refused(
        *pretrain(data, tmp_path, *model, "--options", "size", "4")
    )
    rate = ("--learning-rate", "1e30")
    assert "use a smaller learning rate" in refused(*pretrain(data, tmp_path, *model, *rate))
    (tmp_path / "cifar_resnet8-positive.safetensors").touch()
    assert "exists already; choose another --name" in refused(*pretrain(data, tmp_path, *model))
    twice = (f"npz:{data}/positive.npz",) * 2
    said = refused("pretrain-domains", "--tasks", *twice, *model, "--zoo", tmp_path)
    assert "2 tasks need as many different names; they are positive, positive; give --data" in said
    said = refused("pretrain-domains", "--tasks", *twice, "--data", "a", "b", "--citations", "c", *model)
    assert "2 tasks need as many --citations, or none; 1 are given" in said
