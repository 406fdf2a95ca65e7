"""What a run has tracked is on disk, once, whatever becomes of the run."""

import csv
import json
import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from linft.core.errors import LinftError
from linft.runtime import metrics_log

FILES = ("metrics.jsonl", "metrics.csv")


def losses(step):
    return {"train_loss": 2.0 / (1 + step), "learning_rate": np.float32(0.5)}


def run(directory, steps, **options):
    """A little training: a row a step, and one of the test part at even steps."""
    with metrics_log.open(directory, **options) as track:
        for step in steps:
            track(step, losses(step))
            if step % 2 == 0:
                track(step, {"test_accuracy": jnp.float32(step / 8)})


def contents(directory):
    return {name: (directory / name).read_bytes() for name in FILES}


def test_files_say_what_was_tracked(tmp_path):
    run(tmp_path, range(3))
    assert metrics_log.rows(tmp_path) == [
        {"step": 0, "train_loss": 2.0, "learning_rate": 0.5},
        {"step": 0, "test_accuracy": 0.0},
        {"step": 1, "train_loss": 1.0, "learning_rate": 0.5},
        {"step": 2, "train_loss": 2 / 3, "learning_rate": 0.5},
        {"step": 2, "test_accuracy": 0.25},
    ]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["step"] for row in table] == ["0", "0", "1", "2", "2"]
    assert [float(row["train_loss"]) for row in table if row["train_loss"]] == [2, 1, 2 / 3]
    assert [row["test_accuracy"] for row in table] == ["", "0.0", "", "", "0.25"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("last", [0, 3, 6])
def test_a_resumed_run_leaves_the_files_of_an_uninterrupted_one(tmp_path, last):
    run(tmp_path / "whole", range(8))
    run(tmp_path / "cut", range(last + 2))  # a step further than its last checkpoint
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "tra')  # killed as it wrote
    run(tmp_path / "cut", range(last + 1, 8), resume_from=last)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_run_that_is_not_resumed_starts_new_files(tmp_path):
    run(tmp_path, range(5))
    run(tmp_path, range(2))
    assert [row["step"] for row in metrics_log.rows(tmp_path)] == [0, 0, 1]


KILLED = """
import os, signal, sys
from linft.runtime import metrics_log
with metrics_log.open(sys.argv[1]) as track:
    for step in range(3):
        track(step, {"loss": step / 2})
    track(3, {"accuracy": 1.0})
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_tracked_outlives_a_kill(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
    assert done.returncode == -signal.SIGKILL
    assert [row["step"] for row in metrics_log.rows(tmp_path)] == [0, 1, 2, 3]
    assert (tmp_path / "metrics.csv").read_text() == "step,loss,accuracy\n0,0.0,\n1,0.5,\n2,1.0,\n3,,1.0\n"


def test_numbers_that_are_not_finite_are_null(tmp_path):
    with metrics_log.open(tmp_path) as track:
        track(0, {"loss": float("nan"), "norm": np.inf, "images": 7})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {"step": 0, "loss": None, "norm": None, "images": 7}
    before = contents(tmp_path)
    with metrics_log.open(tmp_path, resume_from=0):
        pass
    assert contents(tmp_path) == before


@contextmanager
def full_disk() -> Iterator[None]:
    """Files may not grow past 200 bytes: only here, since the log of the tests may be a file too."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_said_once_a_file_and_the_run_goes_on(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "linft"), full_disk(), metrics_log.open(tmp_path) as track:
        for step in range(100):
            track(step, losses(step))
    told = [record.getMessage() for record in caplog.records]
    assert [message.split(":")[0] for message in told] == [f"no more metrics go to {name}" for name in FILES]
    assert all("File too large" in message and message.endswith("; the run goes on") for message in told)
    kept = metrics_log.rows(tmp_path)
    assert 0 < len(kept) < 10 and kept == [{"step": step, **losses(step)} for step in range(len(kept))]


def events(directory) -> list[Event]:
    """The TensorBoard events: each a length of 8 bytes, 4 of checksum, the event, 4 of checksum."""
    found = []
    for path in sorted(directory.glob("tensorboard/events*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_tensorboard(tmp_path):
    run(tmp_path, range(3), sinks=("tensorboard",))
    scalars = [
        (event.step, value.tag, value.simple_value) for event in events(tmp_path) for value in event.summary.value
    ]
    assert len(scalars) == 8
    assert {(step, round(value, 4)) for step, tag, value in scalars if tag == "train_loss"} == {
        (0, 2.0),
        (1, 1.0),
        (2, 0.6667),
    }
    run(tmp_path, range(2, 4), resume_from=1, sinks=("tensorboard",))
    assert 2 in [event.step for event in events(tmp_path) if event.HasField("session_log")]  # hides what came after


def test_weights_and_biases_stays_on_this_machine(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    run(tmp_path, range(3), sinks=("wandb",), config={"learning_rate": 0.5})
    identity = (tmp_path / metrics_log.WANDB_RUN).read_text()
    run(tmp_path, range(2, 4), resume_from=1, sinks=("wandb",))
    assert (tmp_path / metrics_log.WANDB_RUN).read_text() == identity
    assert len(list(tmp_path.glob(f"wandb/offline-run-*-{identity}/run-{identity}.wandb"))) == 2


def test_weights_and_biases_not_installed_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # what `import` takes for a missing package
    with (
        pytest.raises(LinftError, match="is not installed; pip install wandb, or leave the sink out"),
        metrics_log.open(tmp_path, sinks=("wandb",)),
    ):
        pytest.fail("the block ran")


def test_an_unknown_sink_is_one_line(tmp_path):
    message = "no metric sink mlflow; give some of tensorboard, wandb"
    with pytest.raises(LinftError, match=message), metrics_log.open(tmp_path, sinks=("mlflow",)):
        pytest.fail("the block ran")
    assert not os.listdir(tmp_path)


def test_absent_rows_are_one_line_and_a_damaged_one_is_passed_over(tmp_path):
    with pytest.raises(LinftError, match=r"no metrics in .*jsonl; start the run anew"):
        metrics_log.rows(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"st\n{"step": 1}\n')
    assert metrics_log.rows(tmp_path) == [{"step": 0}, {"step": 1}]
