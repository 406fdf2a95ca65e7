"""`linft finetune` as a user types it."""

import csv
import json
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import yaml

import linft
from linft.cli.main import main
from linft.training import metrics as evaluation

CURVES = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
SMALL = ("--batch-size", "10", "--steps", "4", "--train-images", "40", "--test-images", "20", "--record-every", "2")


@pytest.fixture(scope="module")
def call():
    def call(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["linft", "finetune", *map(str, arguments)])
            main()

    return call


@pytest.fixture(scope="module")
def once(call, model_file, tmp_path_factory):
    output = tmp_path_factory.mktemp("once") / "run"
    call("--task", "digits", "--model", model_file, *SMALL, "--log-to", "tensorboard", "--output", output)
    return output


@pytest.fixture(scope="module")
def result(once):
    return json.loads((once / "result.json").read_text())


def test_everything_is_written(once, result):
    names = {path.name for path in once.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "metrics.csv", "checkpoints", "model.safetensors", "result.json"} <= names
    assert any("tfevents" in path.name for path in once.rglob("*"))
    assert result["trajectory"]["steps"] == [0, 2, 4] and set(result["versions"]) >= {"linft", "jax", "device"}


def test_with_adapters_the_merged_model_is_written(call, model_file, tmp_path, capsys):
    output, before = tmp_path / "run", linft.load_model(model_file)
    adapters = ("--lora-rank", "1", "--lora-alpha", "2", "--lora-layers", "stage1", "--learning-rate", "0.1")
    call("--task", "digits", "--model", model_file, *SMALL, *adapters, "--output", output)
    model, result = linft.load_model(output / "model.safetensors"), json.loads((output / "result.json").read_text())
    assert set(result["trajectory"]["distance"]) == {"stage1", "head"}
    for group, moved in {"stem": False, "stage1": True}.items():
        leaves = zip(jax.tree.leaves(model.params[group]), jax.tree.leaves(before.params[group]), strict=True)
        assert any(bool((a != b).any()) for a, b in leaves) == moved
    task = linft.load_task("digits").subset(40, 20)
    again = evaluation.evaluate(np.asarray(model.logits_of(task.x_test)), task.y_test)
    np.testing.assert_allclose(result["trajectory"]["test_loss"][-1], again.loss, rtol=1e-5)


def test_paths_are_dropped(call, model_file, tmp_path):
    call("--task", "digits", "--model", model_file, *SMALL, "--drop-path-rate", "0.5", "--output", tmp_path / "run")
    model = linft.load_model(tmp_path / "run" / "model.safetensors")
    assert model.architecture["options"]["drop_path_rate"] == 0.5


def test_paths_are_dropped_beside_adapters(call, model_file, tmp_path):
    both = ("--lora-rank", "1", "--lora-layers", "stage1", "--drop-path-rate", "0.5", "--batch-norm", "train")
    call("--task", "digits", "--model", model_file, *SMALL, *both, "--output", tmp_path / "run")
    model = linft.load_model(tmp_path / "run" / "model.safetensors")
    assert model.architecture["options"]["drop_path_rate"] == 0.5
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert set(result["trajectory"]["distance"]) == {"stage1", "head"}


def test_the_final_metrics_are_those_of_the_weights_written(once, result):
    model = linft.load_model(once / "model.safetensors")
    task = linft.load_task("digits").subset(40, 20)
    again = evaluation.evaluate(np.asarray(model.logits_of(task.x_test)), task.y_test)
    assert result["final"]["confusion_matrix"] == again.confusion_matrix
    np.testing.assert_allclose(result["final"]["loss"], again.loss, rtol=1e-5)
    np.testing.assert_allclose(result["trajectory"]["test_loss"][-1], again.loss, rtol=1e-5)
    assert model.source["data"] == "digits" and model.source["recipe"]["steps"] == 4
    assert model.source["test_accuracy"] == pytest.approx(result["final"]["accuracy"], abs=1e-4)


def test_metrics_are_written_as_they_come(once, result):
    rows = [json.loads(line) for line in (once / "metrics.jsonl").read_text().splitlines()]
    measured = [row for row in rows if "test_loss" in row]
    for name in CURVES:
        assert [row[name] for row in measured] == result["trajectory"][name]
    logged = [row for row in rows if "loss" in row]
    assert [row["step"] for row in logged] == [1, 2, 3, 4]
    assert logged[0]["learning_rate"] == 0.01 > logged[-1]["learning_rate"]
    assert "norm/stage1" in measured[0]
    with (once / "metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)


def test_the_resolved_configuration_makes_the_run_again(once, result, call, tmp_path):
    config = yaml.safe_load((once / "config.yaml").read_text())
    assert config["steps"] == 4 and config["epochs"] is None and config["batch_norm"] == "train"
    call("--config", once / "config.yaml", "--output", tmp_path / "again")
    again = json.loads((tmp_path / "again" / "result.json").read_text())
    assert again["trajectory"]["test_loss"] == result["trajectory"]["test_loss"]


def test_a_finished_run_is_only_read(once, call, refused, model_file):
    before = (once / "result.json").read_bytes()
    same = ("--task", "digits", "--model", model_file, *SMALL, "--output", once)
    call(*same, "--resume", "auto")
    assert (once / "result.json").read_bytes() == before
    assert "holds a run; go on with it by --resume auto" in refused(*same)
    assert "holds a run with another learning_rate" in refused(*same, "--resume", "auto", "--learning-rate", "0.5")


@pytest.fixture(scope="module")
def chosen(call, model_file, tmp_path_factory):
    output = tmp_path_factory.mktemp("chosen") / "run"
    rates = ("--validation", "0.25", "--learning-rates", "0.001", "0.1", "--seeds", "0", "1", "--choose-epoch")
    call("--task", "digits", "--model", model_file, *SMALL, *rates, "--ten-crop", "--output", output)
    return output


def test_choices_are_made_on_held_out_training_images(chosen):
    result = json.loads((chosen / "result.json").read_text())
    tried = result["choice"]["tried"]
    runs = {rate: json.loads((chosen / "choice" / f"rate-{rate}" / "result.json").read_text()) for rate in tried}
    for rate, run in runs.items():
        assert (run["task"]["train_images"], run["task"]["test_images"]) == (30, 10)
        assert tried[rate]["validation_accuracy"] == max(run["trajectory"]["test_accuracy"])
        assert (chosen / "choice" / f"rate-{rate}" / "best.safetensors").exists()
    best = max(tried, key=lambda rate: tried[rate]["validation_accuracy"])
    assert result["choice"]["learning_rate"] == float(best)
    of_best = runs[best]["trajectory"]
    share = of_best["steps"][int(np.argmax(of_best["test_accuracy"]))] / 4
    assert result["choice"]["until"] == max(1, round(share * 4))


def test_final_runs_have_all_images_and_differ_by_seed(chosen):
    result = json.loads((chosen / "result.json").read_text())
    finals = [json.loads((chosen / f"seed-{seed}" / "result.json").read_text()) for seed in (0, 1)]
    assert [(run["task"]["train_images"], run["task"]["test_images"]) for run in finals] == [(40, 20)] * 2
    assert finals[0]["trajectory"]["train_loss"] != finals[1]["trajectory"]["train_loss"]
    losses = [run["final"]["loss"] for run in finals]
    assert result["mean"]["loss"] == pytest.approx(np.mean(losses))
    assert result["standard_deviation"]["loss"] == pytest.approx(np.std(losses, ddof=1))


def test_the_ensemble_averages_probabilities(chosen):
    result = json.loads((chosen / "result.json").read_text())
    task = linft.load_task("digits").subset(40, 20)
    models = [linft.load_model(chosen / f"seed-{seed}" / "model.safetensors") for seed in (0, 1)]
    mean = np.mean([jax.nn.softmax(model.logits_of(task.x_test)) for model in models], 0)
    assert result["ensemble"]["accuracy"] == np.mean(mean.argmax(1) == task.y_test)
    assert result["ten_crop"]["ensemble"]["loss"] != result["ensemble"]["loss"]


def test_a_dry_run_writes_nothing(call, capsys, tmp_path, model_file):
    output = tmp_path / "none"
    call("--task", "digits", "--model", model_file, *SMALL, "--dry-run", "--output", output)
    said = capsys.readouterr().out
    assert "4 steps of 10 images, 4 an epoch" in said and "stage1/block0/conv2/kernel   3×3×2×2" in said
    assert "MB" in said and "s a step" in said and not output.exists()


def test_a_papers_recipe_and_what_overrides_it(call, capsys, tmp_path, model_file):
    options = tmp_path / "options.yaml"
    options.write_text("recipe: l2sp2018\nbatch_size: 20\nlimit_batches: 2\n")
    call("--task", "digits", "--model", model_file, "--config", options, "--epochs", "3", "--dry-run")
    said = capsys.readouterr().out
    assert "40 training and 40 test images, 6 steps of 20" in said
    rows = [line.split() for line in said.splitlines() if line.split()[:1] in (["stage1"], ["head"])]
    assert [row[2:] for row in rows] == [["0.01", "0.01", "pretrained"], ["0.01", "0.01", "zero"]]


def test_steps_of_bit_hyperrule_depend_on_the_task(call, capsys, model_file):
    small = ("--task", "digits", "--model", model_file, "--train-images", "40", "--test-images", "20")
    call(*small, "--recipe", "bit-hyperrule", "--batch-size", "20", "--dry-run", "--augmentation", "none")
    assert "500 steps of 20" in capsys.readouterr().out


BAD = {
    "unknown recipe": (["--recipe", "li2021"], "no recipe 'li2021'"),
    "unknown task": (["--task", "digitz"], "no task 'digitz'"),
    "missing config": (["--config", "nowhere.yaml"], "cannot read the options in nowhere.yaml"),
    "unknown model": (["--model", "resnet9000"], "no model 'resnet9000'"),
    "adapters of random weights": (["--scratch", "resnet18", "--lora-rank", "1"], "leave it out with --scratch"),
    "new layers with adapters": (["--reinit-groups", "2", "--lora-rank", "1"], "has frozen weights; reinitialise"),
    "a rate of one": (["--drop-path-rate", "1"], "drop_path_rate is 1.0; it must lie in [0, 1)"),
    "unknown architecture": (["--scratch", "resnet9000"], "no architecture 'resnet9000'"),
    "no validation": (["--choose-epoch"], "--choose-epoch needs images to choose on"),
    "seed twice": (["--seeds", "1", "1"], "give every seed once"),
    "too many groups": (["--reinit-groups", "9"], "reinit_groups is 9; the model has 3"),
    "devices": (["--devices", "3"], "3 devices were asked for; there are 1"),
    "parts": (["--accumulate", "3"], "a batch of 10 cannot be divided into 3 equal parts"),
    "batch norm": (["--bn-batch-size", "4"], "a batch of 10 images is not a multiple of batch norm's 4"),
    "too few to hold out": (["--validation", "0.001"], "leaves a class without a training or a held-out image"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(refused, name, model_file, tmp_path):
    arguments, message = BAD[name]
    assert message in refused("--task", "digits", "--model", model_file, *SMALL, "--output", tmp_path, *arguments)


def test_a_diverging_run_says_where_it_was_good(refused, model_file, tmp_path):
    line = refused(
        "--task", "digits", "--model", model_file, *SMALL, "--output", tmp_path / "x", "--learning-rate", "1e9"
    )
    assert "with learning rate" in line and "the last good checkpoint is of step" in line


def test_sigterm_saves_and_the_same_command_goes_on(once, model_file, tmp_path, call):
    command = [sys.executable, "-m", "linft.cli.main", "finetune", "--task", "digits", "--model", model_file]
    command += [*SMALL, "--output", tmp_path / "run"]
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        next(line for line in process.stdout if "step 1/4" in line)
        process.send_signal(signal.SIGTERM)
        errors = process.stderr.read()
    assert process.returncode == 2 and errors.startswith("linft: interrupted; what is finished is kept")
    assert (tmp_path / "run" / "checkpoints").exists() and not (tmp_path / "run" / "result.json").exists()
    call(*command[4:], "--resume", "auto")
    metrics = [(path / "metrics.jsonl").read_text().splitlines() for path in (once, tmp_path / "run")]
    kept, resumed = ([json.loads(line) for line in lines] for lines in metrics)
    for row in (*kept, *resumed):
        row.pop("images_per_second", None)
    assert resumed == kept
    weights = [linft.load_model(path / "model.safetensors").params for path in (once, tmp_path / "run")]
    jax.tree.map(np.testing.assert_array_equal, *weights)


def test_a_run_goes_on_to_more_steps(call, refused, model_file, tmp_path):
    command = (
        "--task",
        "digits",
        "--model",
        model_file,
        *SMALL,
        "--schedule",
        "constant",
        "--output",
        tmp_path / "run",
    )
    call(*command)
    call(*command, "--resume", "auto", "--steps", "6")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["trajectory"]["steps"] == [0, 2, 4, 6]
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["steps"] == 6
    assert "holds a run with another" in refused(*command, "--resume", "auto", "--steps", "5")
