"""`linft sweep` as a user types it."""

import json
import os
import signal
import subprocess
import sys

import jax
import pytest
from optuna.trial import TrialState

import linft
from linft import predict
from linft.cli.main import main
from linft.cli.sweep import SweepRecipes, make
from linft.core.base import OneByOne
from linft.models.reinitialize import with_new_layers
from linft.predict.moving import SharedPaths
from linft.workflows.sweep import grid as grids
from linft.workflows.sweep.trial_queue import opened

SMALL = ("--train-images", "12", "--test-images", "10", "--steps", "2", "--batch-size", "6", "--head", "normal")
TRAINING_MODE = ("--batch-norm", "train", "--augmentation", "flip")
VARY = ("--vary", "learning_rate=0.02,0.01,0.001", "momentum=0,0.9")


@pytest.fixture(scope="module")
def call(model_file):
    def call(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["linft", "sweep", "--model", str(model_file), *map(str, arguments)])
            main()

    return call


@pytest.fixture(scope="module")
def output(call, tmp_path_factory):
    """Predicted, then trained."""
    directory = tmp_path_factory.mktemp("swept") / "out"
    for by in ("dual", "finetune"):
        call(*SMALL, *VARY, "--by", by, "--output", directory, *TRAINING_MODE, "--heartbeat", "0.1")
    return directory


def test_both_are_written_side_by_side(output):
    names = {path.name for path in output.iterdir()}
    assert names == {
        "calls.jsonl", "config.json", "dual.jsonl", "finetune.jsonl", "study.journal", "sweep.json", "sweep.html",
        "tangent-full-training-mode-1.safetensors",
    }  # fmt: skip
    written = json.loads((output / "sweep.json").read_text())
    assert written["task"]["train_images"] == 12 and written["recipe"]["batch_size"] == 6
    for by in ("dual", "finetune"):
        lines = [json.loads(line) for line in (output / f"{by}.jsonl").read_text().splitlines()]
        assert lines == written["sweeps"][by]["rows"] and len(lines) == 6
    assert written["sweeps"]["dual"]["dropped"] == ["dropped: augmentation=flip"]
    assert written["sweeps"]["finetune"]["dropped"] == []
    assert "Predicted and real" in (output / "sweep.html").read_text()


def test_the_edge_is_met_where_rates_are_far_above_it(call, tmp_path, capsys):
    call(*SMALL, "--vary", "learning_rate=1e-6,1e3", "--edge", "--output", tmp_path)
    rows = json.loads((tmp_path / "sweep.json").read_text())["sweeps"]["dual"]["rows"]
    assert [row["edge_on_path"]["step"] for row in rows] == [None, 0] and rows[1]["edge_on_path"]["overshoot"] > 4
    if rows[1]["status"] == "finished":
        assert "1 of 2 points leave the predicted path, 1 are expected to break" in capsys.readouterr().out
    path, *others = tmp_path.glob("path-*.json")
    assert not others and path.name == "path-7f8eaf90.json"  # the same for every process
    assert "leave it, and 1 are expected to break" in (tmp_path / "sweep.html").read_text().replace("\n", " ")


def test_moving_predictions_are_kept_as_they_come(model_file):
    command = SweepRecipes(by="moving")
    point = grids.at({"learning_rate": 0.1}, command.training, command.depth, ())
    task = linft.load_task("digits").subset(12, 10, 0)
    run = make(command, linft.load_model(model_file), task, point, None, lambda *_: None)
    assert isinstance(run, OneByOne) and isinstance(run.run, SharedPaths)


def test_no_edge_in_training_mode(call, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(*SMALL, *VARY, *TRAINING_MODE, "--edge", "--output", tmp_path)
    assert stopped.value.code == 2
    assert "leave out --edge: batch norm is in training mode" in capsys.readouterr().err.replace("\n", " ")


def test_the_points_are_those_of_the_library(output, model_file):
    task = linft.load_task("digits").subset(12, 10, 0)
    _, head = jax.random.split(jax.random.key(0))
    model = linft.load_model(model_file).with_head(10, head, "normal", 0.01)
    recipe = linft.Recipe(learning_rate=0.01, momentum=0.9, steps=2, batch_size=6, batch_norm="train")
    found = json.loads((output / "sweep.json").read_text())["sweeps"]
    for by, run, of in (
        ("dual", predict.dual(model, task, batch_norm="train"), recipe),
        ("finetune", linft.finetune(model, task), recipe.replace(augmentation="flip")),
    ):
        (row,) = [r for r in found[by]["rows"] if r["values"] == {"learning_rate": 0.01, "momentum": 0.9}]
        assert row["curve"]["test_loss"] == pytest.approx(run(of).test_loss.tolist(), rel=1e-4)


def test_the_kernel_of_the_features_predicts_a_sweep(call, tmp_path, model_file):
    call(*SMALL, *VARY, "--by", "features-trace", "--output", tmp_path)
    rows = json.loads((tmp_path / "sweep.json").read_text())["sweeps"]["features-trace"]["rows"]
    task = linft.load_task("digits").subset(12, 10, 0)
    model = linft.load_model(model_file).with_head(10, jax.random.split(jax.random.key(0))[1], "normal", 0.01)
    run = predict.feature_dual(model, task, outputs="trace")(
        linft.Recipe(learning_rate=0.01, momentum=0.9, steps=2, batch_size=6)
    )
    (row,) = [row for row in rows if row["values"] == {"learning_rate": 0.01, "momentum": 0.9}]
    assert len(rows) == 6 and row["curve"]["test_loss"] == pytest.approx(run.test_loss.tolist(), rel=1e-4)
    assert "features’ kernel, its trace" in (tmp_path / "sweep.html").read_text()


def test_adam_is_swept_by_the_jacobian(call, tmp_path, model_file):
    adamw = dict(optimizer="adam", convention="decoupled", steps=2, batch_size=6)
    call(*SMALL, "--vary", "learning_rate=0.01,0.001", "--optimizer", "adam", "--convention", "decoupled",
         "--by", "explicit", "--output", tmp_path)  # fmt: skip
    found = json.loads((tmp_path / "sweep.json").read_text())["sweeps"]["explicit"]
    task = linft.load_task("digits").subset(12, 10, 0)
    model = linft.load_model(model_file).with_head(10, jax.random.split(jax.random.key(0))[1], "normal", 0.01)
    trained = linft.finetune(linft.linearize(model), task)
    assert len(found["rows"]) == 2 and found["dropped"] == []
    for row in found["rows"]:
        expected = trained(linft.Recipe(**adamw, **row["values"])).test_loss
        assert row["curve"]["test_loss"] == pytest.approx(expected.tolist(), rel=1e-4)
    assert "Predicted from the Jacobian" in (tmp_path / "sweep.html").read_text()


IN_BOTH_MODES = {
    "features-low-rank": lambda m, t, mode: predict.feature_dual(m, t, outputs="low-rank", batch_norm=mode),
    "spectral": lambda m, t, mode: predict.spectral(m, t, batch_norm=mode),
    "linearized": lambda m, t, mode: linft.finetune(linft.linearize(m, batch_norm=mode), t),
    "moving": lambda m, t, mode: predict.moving(m, t, batch_norm=mode),
}


@pytest.mark.parametrize("by", [pytest.param(by, marks=[pytest.mark.slow] * (by == "moving")) for by in IN_BOTH_MODES])
def test_each_prediction_has_the_batch_norm_of_its_point(call, tmp_path, model_file, by):
    settings = dict(learning_rate=0.01, steps=2, batch_size=None, loss="squared_error")
    vary = ("--vary", "batch_norm=frozen,train", "--batch-size", "None", "--loss", "squared_error")
    call(*SMALL, *vary, "--learning-rate", "0.01", "--by", by, "--output", tmp_path, "--heartbeat", "0.1")
    found = json.loads((tmp_path / "sweep.json").read_text())["sweeps"][by]
    task = linft.load_task("digits").subset(12, 10, 0)
    model = linft.load_model(model_file).with_head(10, jax.random.split(jax.random.key(0))[1], "normal", 0.01)
    assert len(found["rows"]) == 2 and found["dropped"] == []
    for row in found["rows"]:
        mode = row["values"]["batch_norm"]
        alone = IN_BOTH_MODES[by](model, task, mode)(linft.Recipe(**settings, batch_norm=mode))
        assert row["curve"]["train_loss"] == pytest.approx(alone.train_loss.tolist(), rel=1e-4)


def test_a_finished_sweep_is_told_again_without_running_anything(call, output, capsys, monkeypatch):
    monkeypatch.setattr("linft.cli.sweep.make", None)
    call(*SMALL, *VARY, "--by", "dual", "--output", output, *TRAINING_MODE)
    told = capsys.readouterr().out
    assert "6 points: 6 finished." in told
    assert "Not as the recipe says: dropped: augmentation=flip." in told
    assert told.rstrip().endswith("sweep.html")


@pytest.mark.slow
def test_new_groups_from_a_yaml_file_by_the_closed_form(call, tmp_path, capsys):
    (tmp_path / "grid.yaml").write_text("reinit_groups: [1, 2]\nlearning_rate: [0.01, 0.001]\n")
    arguments = (*SMALL, "--by", "spectral", "--kernel", "trace", "--grid", tmp_path / "grid.yaml")
    call(*arguments, "--output", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("*.safetensors")} == {
        "tangent-trace-1.safetensors", "tangent-trace-2.safetensors",
    }  # fmt: skip
    assert "batch_size=6, loss=cross_entropy" in capsys.readouterr().out
    rows = json.loads((tmp_path / "out" / "sweep.json").read_text())["sweeps"]["spectral-trace"]["rows"]
    assert len(rows) == 4 and rows[0]["curve"]["train_loss"][0] != rows[2]["curve"]["train_loss"][0]


def test_a_papers_grid_brings_its_recipe_and_options_override_it():
    command = SweepRecipes.parse(["--grid", "li2020", "--epochs", "2", "--momentum", "0.5"], "linft sweep")
    recipe = linft.recipes.named("li2020", 1).recipe
    assert command.training == recipe.replace(epochs=2.0, momentum=0.5)
    assert command.task.task == "digits" and len(command.grid(5).points()) == 120
    other = SweepRecipes.parse(["--grid", "plested2021", "--recipe", "deshpande2021"], "linft sweep")
    assert other.training == linft.recipes.named("deshpande2021", 1).recipe
    assert SweepRecipes.parse(["--vary", "seed=0,1"], "linft sweep").training.steps == 40


BAD = {
    "no grid": ((), "give --grid li2020"),
    "two grids": (("--grid", "li2020", "--vary", "momentum=0"), "give --grid li2020"),
    "unknown grid": (("--grid", "li2021"), "no grid 'li2021'"),
    "unknown setting": (("--vary", "rate=1"), "no setting 'rate'"),
    "a second --vary": (
        ("--vary", "momentum=0", "--vary=seed=0"),
        "--vary is given twice; give all settings after one",
    ),
    "the network's kernel for the features": (
        ("--vary", "momentum=0", "--by", "features", "--kernel", "trace"),
        "give --by features-trace",
    ),
    "a search of predictions": (("--vary", "momentum=0", "--search", "tpe"), "--by dual predicts every point at once"),
    "a search on test images": (("--vary", "momentum=0", "--by", "finetune", "--search", "tpe"), "--validation 0.2"),
    "pruning on test images": (("--vary", "momentum=0", "--by", "finetune", "--prune"), "--validation 0.2"),
    "a storage that is none": (
        (*SMALL, "--vary", "momentum=0", "--by", "finetune", "--storage", "nosuchbase://x"),
        "cannot open the storage nosuchbase://x",
    ),
    "a bad point": ((*SMALL, "--vary", "momentum=0,2"), "momentum is 2.0; it must lie in [0, 1)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(refused, case, tmp_path):
    arguments, message = BAD[case]
    line = refused(*arguments, "--output", tmp_path / "out")
    assert line.startswith("linft: ") and message in line


def test_another_sweep_in_the_same_directory_is_refused(refused, output):
    line = refused(*SMALL, "--vary", "momentum=0", "--output", output)
    assert "holds results with another" in line and "or another output" in line


def command(model_file, output, *more) -> list[str]:
    rates = "learning_rate=0.02,0.01,0.005,0.002"
    arguments = [*SMALL, "--vary", rates, "--by", "finetune", "--heartbeat", "0.1", *more]
    return [
        sys.executable,
        "-m",
        "linft.cli.main",
        "sweep",
        "--model",
        str(model_file),
        *arguments,
        "--output",
        str(output),
    ]


@pytest.fixture(params=["sqlite", "another"])
def database(request, tmp_path) -> str:
    """The URL of an empty one."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/study.db"
    if "LINFT_TEST_DATABASE" not in os.environ:
        pytest.skip("LINFT_TEST_DATABASE names no empty database, such as postgresql://user:password@host/name")
    return os.environ["LINFT_TEST_DATABASE"]


@pytest.mark.slow
def test_workers_that_are_told_to_end_are_replaced_by_others(model_file, tmp_path, database):
    """One is ended by SIGTERM after its first point, one killed after its; two others do the rest."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
    for number, code in ((signal.SIGTERM, 2), (signal.SIGKILL, -9)):
        process = subprocess.Popen(
            command(model_file, tmp_path / "first", "--storage", database, "--steps", "200"),
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert any(line.startswith("finetune: ") for line in process.stdout)
        process.send_signal(number)
        _, error = process.communicate(timeout=120)
        assert process.returncode == code
        assert code != 2 or error.strip().splitlines()[-1].startswith("linft: interrupted; what is finished is kept")
    workers = [
        subprocess.Popen(
            command(model_file, tmp_path / name, "--storage", database, "--steps", "200"),
            env=environment, stdout=subprocess.DEVNULL,
        )
        for name in ("second", "third")
    ]  # fmt: skip
    assert all(worker.wait(300) == 0 for worker in workers)
    rows = [
        json.loads((tmp_path / name / "sweep.json").read_text())["sweeps"]["finetune"]["rows"]
        for name in ("second", "third")
    ]
    assert rows[0] == rows[1] and [row["status"] for row in rows[0]] == ["finished"] * 4
    with opened(database) as storage:
        (study,) = storage.get_all_studies()
        ended = [trial for trial in storage.get_all_trials(study._study_id) if trial.state == TrialState.COMPLETE]
    assert len(ended) == 4, "each point was run once"


FLIPS = ("--augmentation", "flip", "--draws", "2")


def test_points_share_draws_of_the_images(call, tmp_path, model_file):
    """As each is predicted alone from the same draws, beside real runs."""
    rates = ("--vary", "learning_rate=0.02,0.01", "--output", tmp_path)
    call(*SMALL, *FLIPS, *rates, "--by", "dual")
    call(*SMALL, *FLIPS[:2], *rates, "--by", "finetune")
    written = json.loads((tmp_path / "sweep.json").read_text())["sweeps"]
    assert set(written) == {"dual-2-draws", "finetune"} and written["dual-2-draws"]["dropped"] == []
    task = linft.load_task("digits").subset(12, 10, 0)
    model = with_new_layers(linft.load_model(model_file), task, 0, 1)
    recipe = linft.Recipe(learning_rate=0.02, steps=2, batch_size=6, augmentation="flip")
    run = predict.dual(model, predict.augmented(model, task, recipe, 2))
    for row, rate in zip(written["dual-2-draws"]["rows"], (0.02, 0.01), strict=True):
        assert row["train_loss"] == pytest.approx(run(recipe.replace(learning_rate=rate)).train_loss[-1], rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (FLIPS[2:], "leave out --draws: the recipe has neither augmentation nor mixup"),
        ((*FLIPS, "--by", "finetune"), "--by finetune does not follow draws of the images; leave out --draws"),
        ((*FLIPS, "--by", "spectral"), "--by spectral does not follow draws"),
        ((*FLIPS, "--edge"), "leave out --edge: augmented images are not the images of the kernel"),
        ((*FLIPS, "--vary", "mixup=0,0.2"), "there are augmentation=flip mixup=0, augmentation=flip mixup=0.2; give"),
    ],
)  # fmt: skip
def test_draws_that_points_do_not_share_are_refused(call, tmp_path, capsys, options, message):
    vary = () if "--vary" in options else ("--vary", "learning_rate=0.02,0.01")
    with pytest.raises(SystemExit) as ended:
        call(*SMALL, *vary, *options, "--output", tmp_path / "out")
    assert ended.value.code == 2 and message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_adapters_are_swept(call, tmp_path):
    """Predicted, and trained: on the same adapters, groups of which a grid may name."""
    adapters = ("--lora-rank", "1", "--lora-layers", "stage1")
    for by in ("dual", "finetune"):
        call(*SMALL, *adapters, "--vary", "learning_rate=0.002,0.001", "--by", by, "--output", tmp_path)
    written = json.loads((tmp_path / "sweep.json").read_text())["sweeps"]
    for one, other in zip(written["dual"]["rows"], written["finetune"]["rows"], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.02)
