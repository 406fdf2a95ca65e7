"""A run that is killed at any moment, and resumed by another process, ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from narrow import small_resnet

import linft
from linft.core.base import Trajectory
from linft.runtime import checkpoints, metrics_log
from linft.zoo.importers.native import save_model

RECIPE = dict(
    learning_rate=0.02, schedule="cosine", batch_size=8, steps=24, batch_norm="train", augmentation="crop_flip"
)
RECORD_EVERY = 3

COUNTS = (1 + np.random.default_rng(0).permutation(24)[:8]).tolist()
KILLED = [(signal.SIGKILL, "before" if i % 2 else "after", count) for i, count in enumerate(COUNTS)]
KILLED += [(signal.SIGKILL, "write", 5), (signal.SIGKILL, "commit", 2)]  # in the midst of writing a checkpoint
MOMENTS = [pytest.param(*killed, marks=[pytest.mark.slow] * (i != 9)) for i, killed in enumerate(KILLED)]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Where the model and the task are, and a directory for each run."""
    path = tmp_path_factory.mktemp("runs")
    task = linft.load_task("digits").subset(36, 20)
    save_model(small_resnet(10), path / "model.safetensors")
    np.savez(path / "task.npz", x_train=task.x_train, y_train=task.y_train, x_test=task.x_test, y_test=task.y_test)
    return path


@pytest.fixture(scope="module")
def run_to_the_end(root) -> Callable[[Path], Trajectory]:
    """Begin or resume the run of a directory; what is compiled once serves them all."""
    kept = checkpoints.open(root / "first")
    where = root
    run = linft.finetune(
        linft.load_model(root / "model.safetensors"),
        linft.load_task(f"npz:{root / 'task.npz'}"),
        record_every=RECORD_EVERY,
        checkpoints=kept,
        tracking=lambda step: metrics_log.open(where, step),
    )

    def to_the_end(directory: Path) -> Trajectory:
        nonlocal where
        where = directory
        with checkpoints.open(directory / "checkpoints") as opened:
            vars(kept).update(vars(opened))
            return run(linft.Recipe(**RECIPE))

    return to_the_end


@pytest.fixture(scope="module")
def uninterrupted(root, run_to_the_end) -> Trajectory:
    """The run that nobody killed."""
    return run_to_the_end(root / "uninterrupted")


def run_until(root: Path, directory: Path, number: signal.Signals, moment: str, count: int) -> int:
    """Begin the run in a process of its own, which sends itself a signal; its exit code."""
    script = Path(__file__).parents[1] / "support" / "killed_run.py"
    cache = {"JAX_COMPILATION_CACHE_DIR": root / "cache", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    arguments = [json.dumps(RECIPE), RECORD_EVERY, directory, int(number), moment, count]
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        env=os.environ | {name: str(value) for name, value in cache.items()},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stderr == ""
    return done.returncode


def rows(directory: Path) -> list[dict]:
    """The metrics on disk, but for the speed."""
    found = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "images_per_second"} for row in found]


def assert_same_end(resumed: Trajectory, whole: Trajectory) -> None:
    assert resumed.steps.tolist() == [*range(0, 25, 3)]
    for name in ("steps", "train_loss", "test_loss", "train_accuracy", "test_accuracy", "distance"):
        jax.tree.map(np.testing.assert_array_equal, getattr(resumed, name), getattr(whole, name))
    for one, other in [(resumed.model, whole.model), (resumed.best, whole.best)]:
        jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
        jax.tree.map(np.testing.assert_array_equal, one.batch_stats, other.batch_stats)


@pytest.mark.parametrize(("number", "moment", "count"), MOMENTS)
def test_a_killed_run_ends_as_if_it_had_not_been(root, run_to_the_end, uninterrupted, number, moment, count):
    directory = root / f"{moment}{count}"
    assert run_until(root, directory, number, moment, count) == -number
    half_written = list((directory / "checkpoints").glob("*tmp*"))
    assert half_written or moment not in ("write", "commit")
    assert_same_end(run_to_the_end(directory), uninterrupted)
    assert rows(directory) == rows(root / "uninterrupted")


@pytest.mark.slow
def test_a_run_that_is_asked_to_leave_loses_nothing(root, run_to_the_end, uninterrupted):
    directory = root / "asked"
    assert run_until(root, directory, signal.SIGTERM, "after", 11) == 3
    assert (directory / "checkpoints" / "11").is_dir()
    assert_same_end(run_to_the_end(directory), uninterrupted)
    assert rows(directory) == rows(root / "uninterrupted")
