"""`linft predict` as a user types it."""

import csv
import json
import sys

import numpy as np
import pytest

from linft.cli.main import main
from linft.core.errors import Unavailable


@pytest.fixture
def call(model_file, tmp_path, monkeypatch):
    """The command on a small model and few digits, its output in `out`."""

    def call(*arguments):
        small = ["--model", model_file, "--output", tmp_path / "out", "--train-images", 12, "--test-images", 10]
        small += ["--steps", 3, "--batch-size", 6, "--record-every", 1]
        monkeypatch.setattr(sys, "argv", ["linft", "predict", *map(str, [*small, *arguments])])
        main()
        return json.loads((tmp_path / "out" / "prediction.json").read_text())

    return call


def test_auto_says_what_it_took_and_why(call, tmp_path, capsys):
    result = call("--error", "0.2")
    assert result["schema"] == "linft-predict-1" and result["choice"]["kind"] == result["how"]
    assert set(result["runs"]) == {result["how"]} == {"moving"} and result["choice"]["holds"]
    assert result["choice"]["expected"] == result["runs"]["moving"]["certificate"]["error"] <= 0.2
    with (tmp_path / "out" / "trajectories.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["run"] == result["how"]]
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 3]
    np.testing.assert_allclose([float(row["train_loss"]) for row in rows], result["runs"][result["how"]]["train_loss"])
    text = capsys.readouterr().out
    assert f"Predicted by {result['how']} (" in text and result["choice"]["reason"] in text
    assert "Train loss goes from" in text


def test_where_no_kernel_can_move_it_takes_one_that_stays(call, capsys, monkeypatch):
    def too_large(*_):
        raise Unavailable("the kernels are too large")

    monkeypatch.setattr("linft.predict.anchors._fits", too_large)
    result = call("--error", "0.2")
    assert result["how"] == "dual" and not result["choice"]["holds"] and result["choice"]["expected"] is None
    assert "no kernel that moves can be had: too little memory" in capsys.readouterr().out.replace("\n", " ")


def test_a_finished_prediction_is_not_made_again(call, tmp_path):
    first = call("--how", "features-trace", "--augmentation", "flip")
    assert first["choice"] is None and first["dropped"] == "dropped: augmentation=flip"
    file = tmp_path / "out" / "runs" / "features-trace.json"
    before = file.stat().st_mtime_ns
    assert call("--how", "features-trace", "--augmentation", "flip")["runs"] == first["runs"]
    assert file.stat().st_mtime_ns == before


def test_bad_input_is_one_line(call, refused):
    assert "error is 0.0; give a number above 0" in refused("--error", "0")
    assert "holds results with another recipe" in refused("--learning-rate", "0.5")
