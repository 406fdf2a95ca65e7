"""The command line as a user types it."""

import json
import os
import signal
import subprocess
import sys

import pytest

from linft.cli.main import main

SMALL = ["--train-images", "12", "--test-images", "10", "--steps", "2", "--batch-size", "6"]


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["linft", *map(str, arguments)])
    main()


@pytest.mark.slow  # `make demo` makes the same call
def test_compare_writes_everything_and_says_what_it_found(model_file, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    call(monkeypatch, "compare", "--model", model_file, "--output", output, *SMALL, "--runs", "finetuned", "dual")
    written = {path.name for path in output.rglob("*")}
    assert {"result.json", "config.json", "trajectories.csv", "report.html", "tangent.safetensors"} <= written
    assert {"curves.svg", "curves.png"} <= written
    assert json.loads((output / "result.json").read_text())["task"]["train_images"] == 12
    text = capsys.readouterr().out
    assert "Real train loss fell from" in text
    assert "The kernel predicted" in text
    assert text.rstrip().endswith("report.html")


BAD = {
    "unknown model": (["--model", "resnet9000"], "no model 'resnet9000'"),
    "missing file": (["--model", "nowhere/model.safetensors"], "no model 'nowhere/model.safetensors'"),
    "pickle": (["--model", "model.pkl"], "is a pickle"),
    "unknown task": (["--task", "digitz"], "no task 'digitz'"),
    "missing npz": (["--task", "npz:nowhere.npz"], "nowhere.npz"),
    "too few images": (["--train-images", "99999"], "there are 1347"),
    "momentum": (["--momentum", "1.5"], "momentum is 1.5"),
    "steps and epochs": (["--steps", "3", "--epochs", "1"], "not both"),
    "unknown run": (["--steps", "1", "--runs", "finetuned", "duel"], "no run duel"),
    "unknown group": (["--steps", "1", "--frozen-groups", "stage9"], "no layer group matches 'stage9'"),
    "no rank": (["--lora-rank", "0"], "rank is 0; it must be 1 or more"),
    "a rank too great": (
        ["--lora-rank", "99"],
        "rank is 99, and the kernel of stage1/block0/conv1 has one of 2 at most",
    ),
    "no layers": (["--lora-rank", "1", "--lora-layers", "stage9"], "'stage9' names no layer group with kernels"),
    "unwritable output": (["--steps", "1", "--output", f"{__file__}/out"], "cannot make the directory"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case, model_file, tmp_path, monkeypatch, capsys):
    arguments, message = BAD[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pkl").touch()
    defaults = ["--model", model_file, "--train-images", "12", "--test-images", "10", "--output", tmp_path / "out"]
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, "compare", *defaults, *arguments)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in error
    assert error.startswith("linft: ")
    assert error.count("\n") == 1


@pytest.mark.slow
def test_sigterm_keeps_what_is_finished_and_the_next_call_goes_on(model_file, tmp_path):
    output = tmp_path / "out"
    command = [sys.executable, "-m", "linft.cli.main", "compare", "--model", model_file, "--output", str(output)]
    command += [*SMALL, "--runs", "finetuned", "dual", "dual_trace"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert any(line.startswith("dual: done") for line in process.stdout)  # the first prediction is on disk
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert error.strip().splitlines()[-1].startswith("linft: interrupted; what is finished is kept")
    before = (output / "runs" / "dual.json").stat().st_mtime_ns
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    assert (output / "runs" / "dual.json").stat().st_mtime_ns == before
    assert (output / "report.html").exists()
