"""`linft rank` as a user types it."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from narrow import small_resnet
from PIL import Image

import linft

COMMAND = ("rank",)
FEW = ("--shots", 3, "--resamples", 3, "--scores", "lfc", "lgc", "leep")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    directory = tmp_path_factory.mktemp("zoo")
    for i in range(3):
        model = small_resnet(3, seed=i)
        source = model.source if i == 2 else {"data": f"source{i}", "class_names": list("abc")}
        linft.save_model(model.replace(name=f"model{i}", source=source), directory / f"model{i}.safetensors")
    (directory / "torn.safetensors").write_bytes(b"torn")
    return directory


def test_a_zoo_is_ranked(call, zoo, tmp_path):
    said = call("--zoo", zoo, "--task", "digits", "--output", tmp_path, *FEW)
    found = json.loads((tmp_path / "ranking.json").read_text())
    order = [row["model"] for row in found["models"]]
    rows = [line.split() for line in said.splitlines()]
    assert [row[1] for row in rows if len(row) > 5 and row[1] in order] == order
    first = found["models"][0]
    assert f"{first['scores']['lfc']['value']:.3g} ± " in said
    assert "torn failed: " in said
    assert "leep does not exist for model2: the model has no source head" in said
    assert f"Page: {tmp_path / 'ranking.html'}" in said
    assert {path.name for path in tmp_path.iterdir()} >= {"ranking.json", "ranking.csv", "ranking.html", "models.jsonl"}
    again = call("--zoo", zoo, "--task", "digits", "--output", tmp_path, "--pictures", 0, *FEW)
    assert "kernels" not in again
    assert json.loads((tmp_path / "ranking.json").read_text())["models"] == found["models"]


@pytest.mark.slow
def test_kernels_over_a_real_fine_tuning(call, zoo, tmp_path):
    call("--models", zoo / "model0.safetensors", "--task", "digits", "--output", tmp_path, *FEW, "--epochs", 2)
    page = (tmp_path / "ranking.html").read_text()
    assert "epoch 0" in page and "epoch 1" in page and "epoch 2" in page


def test_layer_groups(call, zoo, tmp_path):
    call("--zoo", zoo, "--task", "digits", "--output", tmp_path, *FEW, "--groups", "stage1", "head", "--pictures", 0)
    assert json.loads((tmp_path / "ranking.json").read_text())["gradients"]["groups"] == ["stage1", "head"]


def test_names_that_are_no_utf8_everywhere(call, zoo, tmp_path):
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9t\xe9"))
    models = [place / os.fsdecode(b"r\xe9seau.safetensors"), place / os.fsdecode(b"cass\xe9.safetensors")]
    for i, name in enumerate((b"caf\xe9", b"the")):
        (place / os.fsdecode(name)).mkdir(parents=True)
        for k in range(4):
            Image.new("L", (8, 8), 100 * i + 9 * k).save(place / os.fsdecode(name) / f"{k}.png")
    shutil.copy(zoo / "model0.safetensors", models[0])
    models[1].write_bytes(b"torn")
    said = call("--models", *models, "--task", f"folder:{place}", "--output", place / "out", *FEW)
    for file in ("ranking.json", "ranking.csv", "ranking.html", "models.jsonl"):
        assert "seau" in (place / "out" / file).read_text(encoding="utf-8")
    found = json.loads((place / "out" / "ranking.json").read_text())
    assert [row["model"] for row in found["models"]] == [r"r\udce9seau"] and list(found["failed"]) == [r"cass\udce9"]
    assert r"r\udce9seau" in said and r"\udce9t\udce9/out/ranking.html" in said


BAD = {
    "no zoo": (("--zoo", "{tmp}/nowhere", "--task", "digits"), "no zoo at"),
    "an empty zoo": (("--zoo", "{tmp}", "--task", "digits"), "there is no model to rank"),
    "no such score": (("--zoo", "{zoo}", "--task", "digits", "--scores", "lgz"), "no score lgz"),
    "no such task": (("--zoo", "{zoo}", "--task", "birds"), "no task 'birds'"),
    "only failed ones": (
        ("--models", "{zoo}/torn.safetensors", "--task", "digits", "--scores", "lfc"),
        "none of 1 models could be scored",
    ),
    "labels with gaps": (("--zoo", "{zoo}", "--task", "npz:{tmp}/gaps.npz"), "no training image has label 1"),
    "no shots": (("--zoo", "{zoo}", "--task", "digits", "--shots", "0"), "max_per_class(0)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case, refused, zoo, tmp_path):
    images, labels = np.zeros((4, 8, 8), np.uint8), np.array([0, 0, 2, 2])
    np.savez(tmp_path / "gaps.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    arguments, message = BAD[case]
    line = refused(*(each.format(tmp=tmp_path, zoo=zoo) for each in arguments), "--output", tmp_path / "out")
    assert message in line
