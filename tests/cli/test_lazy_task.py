"""Every command that knows a task by its digest works on images that stay in their files, as on those in memory."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

import linft
from linft.cli.main import main
from linft.data import lazy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scanned digits 0 to 3, 20 of each class."""
    task = linft.load_task("digits")
    root = tmp_path_factory.mktemp("digits")
    for label in range(4):
        for i, image in enumerate(task.x_train[task.y_train == label][:20]):
            path = root / str(label) / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(image[..., 0]).save(path)
    return root


SAMPLE = ("--train-images", 12, "--test-images", 8)
COMMANDS = {  # arguments, the file of results, and what of it does not depend on how images are held
    "compare": (
        ("--runs", "finetuned", "dual", "--steps", 2, "--batch-size", 6),
        "result.json",
        lambda result: [result["runs"][name]["test_loss"] for name in ("finetuned", "dual")],
    ),
    "predict": (
        ("--how", "trace", "--steps", 2, "--batch-size", 6),
        "prediction.json",
        lambda result: [result["runs"]["trace"]["test_loss"]],
    ),
    "sweep": (
        ("--grid", "{grid}", "--steps", 2, "--batch-size", 6),
        "sweep.json",
        lambda result: [row["test_loss"] for row in result["sweeps"]["dual"]["rows"]],
    ),
    "advise": (
        ("--budget", 2, "--folds", 2, "--shots", 3, "--batch-size", 6),
        "advice.json",
        lambda result: [point["loss"] for point in result["points"]],
    ),
    "rank": (
        ("--models", "{model}", "--scores", "lfc"),
        "ranking.json",
        lambda r: r["models"][0]["scores"]["lfc"]["value"],
    ),
}


QUICK = ("rank",)  # the others share its digest of files, and take half a minute or more


@pytest.mark.parametrize("command", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in COMMANDS])
def test_the_same_from_files_as_from_memory(command, folder, model_file, tmp_path, monkeypatch):
    arguments, file, told = COMMANDS[command]
    (tmp_path / "grid.yaml").write_text("learning_rate: [0.001, 0.01]\n")
    places = {"grid": tmp_path / "grid.yaml", "model": model_file}
    given = [str(argument).format(**places) for argument in arguments]
    given += [] if command == "rank" else ["--model", str(model_file), *map(str, SAMPLE)]

    def called(output):
        monkeypatch.setattr(
            sys, "argv", ["linft", command, "--task", f"folder:{folder}", "--output", str(tmp_path / output), *given]
        )
        main()
        return told(json.loads((tmp_path / output / file).read_text()))

    held = called("held")
    monkeypatch.setattr(lazy, "IN_MEMORY", 0)
    assert isinstance(linft.load_task(f"folder:{folder}").x_train, lazy.LazyImages)
    np.testing.assert_allclose(called("files"), held, rtol=1e-5)
    assert called("files") == called("files")  # which goes on in the same directory
