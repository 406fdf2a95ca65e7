"""Every file of results: what a command wrote is read as it was written; anything else is refused in one line."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from linft.cli.main import main
from linft.core.errors import LinftError
from linft.predict.result import PredictionResult
from linft.runtime import schema
from linft.training.result import RunResult, SeedsResult
from linft.workflows.advise.result import AdviceResult, KeptCurvature, KeptMeasures
from linft.workflows.compare.result import ComparisonResult
from linft.workflows.compare.store import StoredRun
from linft.workflows.rank.result import RankingResult
from linft.workflows.sweep.result import SweepResult

IMAGES = ("--train-images", "12", "--test-images", "10", "--sample-seed", "0")
RECIPE = ("--steps", "2", "--batch-size", "6")  # what other commands are tested with, too, which share their programs


@dataclass(frozen=True)
class Written:
    """A file that a command writes."""

    command: tuple[str, ...]
    file: str
    kind: type
    field: str = ""
    """Of it, one that the same command refuses where it is missing or of another type; none where it writes the file
    and does not read it."""


COMPARE = ("compare", "--runs", "finetuned", "dual", *IMAGES, *RECIPE)
PREDICT = ("predict", "--how", "features-trace", *IMAGES, *RECIPE)
FINETUNE = ("finetune", "--task", "digits", "--resume", "auto", *IMAGES, *RECIPE)
SEEDS = (*FINETUNE, "--validation", "0.5", "--seeds", "0", "--ten-crop", "--train-images", "20")
ADVISE = ("advise", "--budget", "4", "--folds", "2", "--verify", *IMAGES, "--train-images", "20")
RANK = ("rank", "--task", "digits", "--scores", "lfc", "--shots", "3", "--resamples", "2", "--pictures", "0")
SWEEP = ("sweep", "--vary", "learning_rate=0.01,0.001", *IMAGES, *RECIPE)

RESULTS = {
    "comparison": Written(COMPARE, "result.json", ComparisonResult),
    "run of a comparison": Written(COMPARE, "runs/finetuned.json", StoredRun, "drift"),
    "prediction": Written(PREDICT, "prediction.json", PredictionResult),
    "run of a prediction": Written(PREDICT, "runs/features-trace.json", StoredRun, "run"),
    "sweep": Written(SWEEP, "sweep.json", SweepResult),
    "advice": Written(ADVISE, "advice.json", AdviceResult),
    "measures of an advice": Written(ADVISE, "measures.json", KeptMeasures, "found"),
    "curvature of an advice": Written(ADVISE, "curvature-1.json", KeptCurvature, "found"),
    "ranking": Written(RANK, "ranking.json", RankingResult),
    "fine-tuning": Written(FINETUNE, "result.json", RunResult, "trajectory"),
    "seeds": Written(SEEDS, "result.json", SeedsResult),
    "run of a seed": Written(SEEDS, "seed-0/result.json", RunResult, "final"),
}
SLOW = (COMPARE, ADVISE)
"""What they write is read in the tests of their workflows, too."""
NAMES = [pytest.param(n, marks=pytest.mark.slow if of.command in SLOW else ()) for n, of in RESULTS.items()]
READ = [name for name in NAMES if RESULTS[name.values[0]].field]


def call(command: tuple[str, ...], model: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    option = "--models" if command[0] == "rank" else "--model"
    monkeypatch.setattr(sys, "argv", ["linft", *command, option, str(model), "--output", str(output)])
    main()


@pytest.fixture(scope="module")
def written(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, ...]], Path]:
    """From a command to the directory that it wrote, once."""
    made: dict[tuple[str, ...], Path] = {}

    def directory(command: tuple[str, ...]) -> Path:
        if command not in made:
            made[command] = tmp_path_factory.mktemp(command[0])
            with pytest.MonkeyPatch.context() as patched:
                call(command, model_file, made[command], patched)
        return made[command]

    return directory


@pytest.mark.parametrize("name", NAMES)
def test_a_result_is_read_as_it_was_written(name: str, written: Callable[[tuple[str, ...]], Path]):
    of = RESULTS[name]
    path = written(of.command) / of.file
    assert schema.content(schema.read(path, of.kind)) == json.loads(path.read_text())


@pytest.mark.parametrize("name", NAMES)
def test_another_version_is_refused(name: str, written: Callable[[tuple[str, ...]], Path], tmp_path: Path):
    of = RESULTS[name]
    content = json.loads((written(of.command) / of.file).read_text())
    for version, said in {"linft-other-7": "schema linft-other-7", None: "an earlier version of linft"}.items():
        path = tmp_path / "it.json"
        path.write_text(json.dumps(content | {"schema": version}))
        with pytest.raises(LinftError, match=f"^{path} is of {said}.* reads {content['schema']}; delete it"):
            schema.read(path, of.kind)


@pytest.mark.parametrize("name", READ)
def test_anything_else_is_refused_by_file_and_field(
    name: str, written: Callable[[tuple[str, ...]], Path], model_file: Path, tmp_path: Path, monkeypatch, capsys
):
    of = RESULTS[name]
    shutil.copytree(written(of.command), tmp_path, dirs_exist_ok=True)
    path = tmp_path / of.file
    content = json.loads(path.read_text())
    without = {key: value for key, value in content.items() if key != of.field}
    for text, said in {
        json.dumps(content | {"schema": "linft-other-7"}): "is of schema linft-other-7, and this one reads ",
        json.dumps({key: value for key, value in content.items() if key != "schema"}): "is of an earlier version of li",
        json.dumps(without): f"is not as linft writes it (Object missing required field `{of.field}`)",
        json.dumps(content | {of.field: "text"}): f", got `str` - at `$.{of.field}`)",
        "{": "is not readable JSON (",
    }.items():
        path.write_text(text)
        capsys.readouterr()
        with pytest.raises(SystemExit) as error:
            call(of.command, model_file, tmp_path, monkeypatch)
        (line,) = capsys.readouterr().err.splitlines()
        assert error.value.code == 2
        assert line.startswith(f"linft: {path} ") and said in line and "; delete it" in line
