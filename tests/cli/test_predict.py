"""`linft predict` as a user types it."""

import csv
import json
import shutil
import sys
from functools import partial

import jax
import numpy as np
import pytest

import linft
from linft.cli.main import main
from linft.core.errors import Unavailable


@pytest.fixture
def call(model_file, tmp_path, monkeypatch):
    """The command on a small model and few digits, its output in `out`."""

    def call(*arguments):
        small = ["--model", model_file, "--output", tmp_path / "out", "--train-images", 12, "--test-images", 10]
        small += ["--steps", 2, "--batch-size", 6, "--record-every", 1]
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
    assert [int(row["step"]) for row in rows] == [0, 1, 2]
    np.testing.assert_allclose([float(row["train_loss"]) for row in rows], result["runs"][result["how"]]["train_loss"])
    text = capsys.readouterr().out
    assert f"Predicted by {result['how']} (" in text and result["choice"]["reason"] in text
    assert "Train loss goes from" in text


def test_running_averages_of_batch_norm_are_told(call, capsys):
    found = call("--how", "moving", "--batch-norm", "train")["runs"]["moving"]["running"]
    assert found["steps"] == [0, 1, 2] and len(found["test_accuracy"]) == 3
    told = capsys.readouterr().out.replace("\n", " ")
    assert (
        f"With the running averages of batch norm's statistics test loss ends at {found['test_loss'][-1]:.3f}" in told
    )


def test_the_edge_along_the_path_is_told(call, capsys):
    result = call("--how", "dual", "--edge", "--learning-rate", "100")
    assert result["edge_on_path"]["step"] == 0 and result["edge_on_path"]["overshoot"] > 4
    told = capsys.readouterr().out.replace("\n", " ")
    assert "Along the predicted path the recipe meets the edge of stability at about step 0" in told
    with pytest.raises(SystemExit):
        call("--how", "dual", "--edge", "--batch-norm", "train")
    assert "leave out --edge: batch norm is in training mode" in capsys.readouterr().err.replace("\n", " ")


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


def test_seeds_of_order_leave_a_band(call, model_file, capsys):
    task = linft.load_task("digits").subset(12, 10, 0)
    model = linft.load_model(model_file).with_head(10, init="probe", task=task)
    recipe = linft.Recipe(learning_rate=0.001, steps=2, batch_size=6)
    run = linft.predict.dual(model, task, outputs="trace", record_every=1)
    call("--how", "trace")  # which is gone on from
    found = call("--how", "trace", "--seeds", 2)
    assert list(found["runs"]) == ["trace", "trace-seed-1"] and found["band"]["seeds"] == [0, 1]
    losses = [run["train_loss"] for run in found["runs"].values()]
    np.testing.assert_allclose(losses, [run(recipe.replace(seed=seed)).train_loss for seed in (0, 1)], rtol=1e-4)
    for name, of in (("lowest", np.min), ("mean", np.mean), ("highest", np.max)):
        np.testing.assert_allclose(found["band"]["train_loss"][name], of(losses, axis=0))
    assert found["band"]["train_loss"]["lowest"][-1] < found["band"]["train_loss"]["highest"][-1]
    assert "By 2 seeds train loss ends between" in capsys.readouterr().out.replace("\n", " ")


def test_seeds_draw_a_random_head_too(call, model_file):
    """The features' kernel is of no head: as if computed for each, and each head is another."""
    task = linft.load_task("digits").subset(12, 10, 0)
    models = [linft.load_model(model_file).with_head(10, jax.random.key(seed)) for seed in (0, 1)]
    recipe = linft.Recipe(learning_rate=0.001, steps=2, batch_size=6)
    for kind, run in (
        ("features", linft.predict.feature_dual),
        ("features-low-rank", partial(linft.predict.feature_dual, outputs="low-rank")),
    ):
        found = call("--head", "normal", "--how", kind, "--seeds", 2)
        assert found["heads"] and list(found["runs"]) == [kind, f"{kind}-seed-1"]
        for seed, model in enumerate(models):
            expected = run(model, task, record_every=1)(recipe.replace(seed=seed))
            losses = [*found["runs"].values()][seed]["train_loss"]
            np.testing.assert_allclose(losses, expected.train_loss, rtol=1e-4)
        first, other = (run["train_loss"][0] for run in found["runs"].values())
        assert abs(first - other) > 1e-4  # the heads differ before any order counts


def test_augmentation_is_followed_by_draws(call, capsys):
    found = call("--augmentation", "flip", "--mixup", "0.2", "--draws", 2, "--steps", 4)
    assert (found["draws"], found["dropped"], found["recipe"]["augmentation"]) == (2, "", "flip")
    assert found["how"] == "moving" and found["choice"]["expected"] is None and not found["choice"]["holds"]
    assert "what other draws of the images would do, no certificate tells" in capsys.readouterr().out.replace("\n", " ")


def test_adam_is_followed_along_its_path_and_by_kernels_with_a_word(call, tmp_path, capsys):
    adamw = ("--optimizer", "adam", "--convention", "decoupled", "--weight-decay", "0.1")
    followed = call(*adamw)
    assert followed["how"] == "moving" and followed["dropped"] == "" and followed["recipe"]["optimizer"] == "adam"
    assert followed["choice"]["holds"] and "expected to be off by at most" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "out")
    dropped = call(*adamw, "--how", "trace")
    assert dropped["dropped"] == "dropped: optimizer=adam" in capsys.readouterr().out


def test_bad_input_is_one_line(call, refused):
    assert "seeds is 0; it must be 1 or more" in refused("--seeds", "0")
    assert "leave out --draws: the recipe has neither augmentation nor mixup" in refused("--draws", "2")
    flips = ("--augmentation", "flip", "--draws")
    assert "draws is -1; it must be 1 or more" in refused(*flips, "-1")
    assert "trains on the images themselves; leave out --draws" in refused(*flips, "2", "--how", "relinearize")
    assert "leave out --edge, which is of the images as they are" in refused(*flips, "2", "--edge")
    assert "error is 0.0; give a number above 0" in refused("--error", "0")
    assert "holds results with another recipe" in refused("--learning-rate", "0.5")
