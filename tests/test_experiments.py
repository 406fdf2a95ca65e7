"""The experiments on hyperparameters run, and go on from what is there."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
ROWS = {"sweep_truth": 45, "layers": 20, "regularisers": 40, "sources": 34}
"""Points of one task, of every case."""


def run(name: str, output: Path, data: Path) -> str:
    """What an experiment says at the smallest scale, on one task."""
    call = [
        sys.executable,
        ROOT / "experiments" / f"{name}.py",
        "--data",
        data,
        "--tasks",
        "hymenoptera",
        "--output",
        output,
    ]
    return subprocess.run(list(map(str, call)), cwd=output.parent, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_every_point_is_predicted_and_run_once(name, shared, tmp_path):
    output = tmp_path / "out"
    said = run(name, output, shared / "data")
    lines = [
        line for file in (output / "smoke" / "predicted").glob("*.jsonl") for line in file.read_text().splitlines()
    ]
    assert len(lines) == ROWS[name] and "hymenoptera" in (output / "smoke" / "table.md").read_text()
    assert "real hymenoptera" in said and run(name, output, shared / "data").startswith("wrote")


@pytest.fixture
def beside(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "experiments")
    return importlib.import_module("beside")


def test_held_out_images_are_training_images_that_nothing_is_trained_on(beside, shared):
    whole = beside.linft.load_task("digits")
    parts = [beside.task_of("digits", shared / "data", beside.SIZES["laptop"], part) for part in ("test", "held-out")]
    for images in (parts[0].x_train, parts[1].x_test):
        assert {image.tobytes() for image in images} <= {image.tobytes() for image in whole.x_train}
    np.testing.assert_array_equal(parts[0].x_train, parts[1].x_train)
    seen = [{image.tobytes() for image in images} for images in (parts[0].x_train, *(part.x_test for part in parts))]
    assert sum(map(len, seen)) == len(set.union(*seen)) > 300


def test_points_are_chosen_where_they_are_held_out_and_measured_where_not(beside):
    def pair(rate, predicted, real):
        values = {"values": {"learning_rate": rate}, "status": "finished", "test_loss": 1.0}
        row = {**values, "effective_rate": rate, "edge": 1e6}
        return {**row, "test_accuracy": predicted}, {**row, "test_accuracy": real}

    measured = [pair(0.1, 0.5, 0.4), pair(0.2, 0.9, 0.6), pair(0.3, 0.1, 0.8)]
    held_out = [pair(0.1, 0.8, 0.3), pair(0.2, 0.7, 0.9), pair(0.3, 0.1, 0.8)]
    found = beside.best(measured, 30, held_out)
    assert (found.real["test_accuracy"], found.predicted["test_accuracy"], found.taken["test_accuracy"]) == (
        0.6,
        0.5,
        0.4,
    )
    flattered = beside.best(measured, 30)
    assert (flattered.real["test_accuracy"], flattered.predicted["test_accuracy"]) == (0.8, 0.9)


def test_a_start_with_new_norms_has_the_statistics_of_the_task(beside, shared):
    task = beside.task_of("digits", shared / "data", beside.SIZES["smoke"])
    one, two = (beside.start(beside.SOURCE, task, groups) for groups in (1, 2))
    norm = lambda model, block: np.asarray(model.batch_stats["stage3"][block]["norm1"]["var"])  # noqa: E731
    pretrained = beside.loaded(beside.SOURCE)
    np.testing.assert_array_equal(norm(one, "block1"), norm(pretrained, "block1"))
    assert np.ptp(norm(two, "block1")) > 0.01  # not the 1 of a new norm
    assert (norm(two, "block0") != norm(pretrained, "block0")).all()
