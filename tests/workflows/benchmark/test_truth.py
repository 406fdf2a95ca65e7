"""The benchmark's runs, on a zoo of three tiny models: which are planned, what they are, and how they go on."""

import json
import shutil

import flax.linen as nn
import jax
import numpy as np
import pytest
from narrow import small_resnet

import linft
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.runtime import schema
from linft.training.finetune import finetune
from linft.workflows.benchmark.protocol import Protocol, Target, sample
from linft.workflows.benchmark.truth import FinishedCase, cases, run, truth
from linft.workflows.benchmark.zoos import candidates
from linft.zoo.load import SHIPPED

PROTOCOL = Protocol(
    shots=(2, "full"), steps=(2, 3), batches=(5, 8), rates=(0.1, 0.01), seeds=(0, 1), train_images=30, test_images=20
)
DIGITS = Target("digits", "digits")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Two models of other data, the second from the first; and one of the target's own."""
    directory = tmp_path_factory.mktemp("zoo")
    for seed, (name, source) in enumerate(
        {"a": {"data": "birds"}, "b": {"data": "cars", "init": "a"}, "c": {"data": "digits"}}.items()
    ):
        model = small_resnet(4, seed=seed)
        linft.save_model(model.replace(name=name, source=source), directory / f"{name}.safetensors")
    return directory


def names(paths) -> list[str]:
    return [path.stem for path in paths]


def test_models_that_saw_the_target_are_left_out(zoo):
    assert names(candidates(zoo, "digits")) == ["a", "b"]
    assert names(candidates(zoo, "birds")) == ["c"]
    assert names(candidates(zoo, "cars")) == ["a", "c"]


def test_shipped_models_that_saw_the_targets():
    """15 ResNets, 14 DenseNets and 5 domains; of ucmerced16 two of each architecture."""
    assert len(candidates(SHIPPED, "hymenoptera")) == 34
    left_out = set(candidates(SHIPPED, "hymenoptera")) - set(candidates(SHIPPED, "ucmerced16"))
    assert sorted(path.stem for path in left_out) == [
        f"{network}-{start}ucmerced16" for network in ("densenet22", "resnet14") for start in ("cifar10-", "")
    ]
    assert not any(
        path.stem.startswith(("multibn5", "resnet14"))
        for path in candidates(SHIPPED, "cifar10")
        if "-cifar10" in path.stem
    )


def test_the_order_of_runs(zoo):
    planned = cases(PROTOCOL, [DIGITS], zoo)
    assert [(case.seed, case.rate, case.shots, case.model.stem) for case in planned] == [
        (0, 0.1, 2, "a"), (0, 0.1, 2, "b"), (0, 0.1, "full", "a"), (0, 0.1, "full", "b"),
        (0, 0.01, 2, "a"), (0, 0.01, 2, "b"),
        (1, 0.1, 2, "a"), (1, 0.1, 2, "b"), (1, 0.01, 2, "a"), (1, 0.01, 2, "b"),
    ]  # fmt: skip
    assert len({case.key for case in planned}) == len(planned)


def test_other_weights_and_other_images_of_the_same_names_are_other_runs(zoo, tmp_path):
    for of in ("a", "b"):
        shutil.copy(zoo / f"{of}.safetensors", tmp_path)
    linft.save_model(
        linft.load_model(zoo / "c.safetensors").replace(source={"data": "birds"}), tmp_path / "a.safetensors"
    )
    digits = linft.load_task("digits").subset(100, 40, seed=1)
    arrays = {name: getattr(digits, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(tmp_path / "digits.npz", **arrays)
    before, weights, images = (
        {case.model.stem: case.key for case in cases(PROTOCOL, [target], of)[:2]}
        for of, target in ((zoo, DIGITS), (tmp_path, DIGITS), (zoo, Target("digits", f"npz:{tmp_path}/digits.npz")))
    )
    assert before["a"] != weights["a"] and before["b"] == weights["b"]
    assert before["a"] != images["a"] and before["b"] != images["b"]


def test_a_run_is_fine_tuning_by_the_recipe(zoo):
    (case, *_) = cases(PROTOCOL, [DIGITS], zoo)
    row = run(case)
    task = sample(DIGITS, 2, 0, PROTOCOL)
    assert (len(task.y_train), len(task.y_test)) == (20, 20)
    model = linft.load_model(zoo / "a.safetensors").with_head(10, jax.random.key(0))
    recipe = Recipe(
        learning_rate=0.1, weight_decay=1e-4, batch_size=5, steps=2, schedule="step", drop_at=(15 / 30, 25 / 30),
        batch_norm="train", augmentation="resized_crop",
    )  # fmt: skip
    again = finetune(model, task)(recipe)
    assert row.test_accuracy == pytest.approx(again.test_accuracy[-1], abs=1e-6)
    assert row.train_loss == pytest.approx(again.train_loss[-1], rel=1e-4)


def test_runs_go_on_where_they_were_cut_off(zoo, tmp_path):
    planned, file = cases(PROTOCOL, [DIGITS], zoo)[:4], tmp_path / "new" / "truth.jsonl"
    before = truth(planned[:2], file)
    with file.open("a") as out:
        out.write('{"key": "digits, a, 30 im')
    calls: list[tuple[int, int]] = []
    rows = truth(planned, file, progress=lambda done, total: calls.append((done, total)))
    assert rows[:2] == before and calls == [(3, 4), (4, 4)]
    assert [row.key for row in schema.read_rows(file, FinishedCase)] == [case.key for case in planned]
    written = file.read_text().splitlines()
    assert len(written) == 5 and json.loads(written[-1]) == schema.content(rows[-1])
    assert truth(planned, file, progress=lambda *_: pytest.fail("nothing was missing")) == rows


def test_models_of_one_architecture_share_what_is_compiled(zoo):
    """The network is not traced again for the second model's steps and measurements."""
    a, b, *_ = cases(PROTOCOL, [DIGITS], zoo)
    traced = []

    def spy(call, args, kwargs, context):
        if not context.module.is_initializing():
            traced.append(context.module.path)
        return call(*args, **kwargs)

    run(a)
    with nn.intercept_methods(spy):
        run(b)
        assert not traced
        other = small_resnet(10, width=1)
        finetune(other, sample(DIGITS, 2, 0, PROTOCOL))(Recipe(steps=0))
    assert traced


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": (1,)}, "as many steps and batches as shots"),
        ({"seeds": ()}, "one seed"),
        ({"shots": (5, 5, "full")}, "name one twice"),
    ],
)
def test_protocols_that_cannot_be(changes, message):
    with pytest.raises(LinftError, match=message):
        Protocol(**changes)


def test_a_choice_needs_two_models(zoo):
    with pytest.raises(LinftError, match="1 models that did not see birds"):
        cases(PROTOCOL, [Target("birds", "digits")], zoo)
