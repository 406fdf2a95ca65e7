"""Sweeps shared through a storage: workers that come, die and go on; searches and pruning on held-out images."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from swept import BASE, RATES

import linft
from linft.core.base import OneByOne
from linft.core.errors import LinftError
from linft.predict.tangent import save
from linft.workflows.sweep.grid import grid
from linft.workflows.sweep.shared import Sharing, Watch
from linft.workflows.sweep.sweep import sweep
from linft.workflows.sweep.trial_queue import opened

QUICK = {"heartbeat": 0.05, "timeout": 60.0}


def storage_of(kind: str, path: Path) -> str:
    return str(path / "study.journal") if kind == "journal" else f"sqlite:///{path}/study.db"


@pytest.fixture(params=["journal", "sqlite"])
def storage(request, tmp_path) -> str:
    return storage_of(request.param, tmp_path)


def counted(run) -> tuple[OneByOne, list[float]]:
    ran = []

    def one(recipe):
        ran.append(recipe.learning_rate)
        return run(recipe)

    return OneByOne(one), ran


def same(rows, others) -> bool:
    return [replace(row, seconds=0.0) for row in rows] == [replace(row, seconds=0.0) for row in others]


def test_a_shared_sweep_finds_what_one_alone_finds(spectral, storage, tmp_path):
    run, ran = counted(spectral)
    alone = sweep(spectral, RATES, BASE)
    found = sweep(run, RATES, BASE, sharing=Sharing(storage, **QUICK), output=tmp_path / "one")
    assert ran == RATES["learning_rate"] and same(found.rows, alone.rows)
    assert [row.status for row in found.rows] == ["finished"] * 5 + ["diverged"]
    again = sweep(run, RATES, BASE, sharing=Sharing(storage, **QUICK), output=tmp_path / "two")
    assert len(ran) == 6 and same(again.rows, alone.rows), "what is done is not done again, wherever it is asked for"
    assert len((tmp_path / "one" / "run.jsonl").read_text().splitlines()) == 6
    other, others = counted(spectral)
    sweep(other, RATES, BASE.replace(momentum=0.5), sharing=Sharing(storage, **QUICK))
    assert len(others) == 6, "another sweep of the same storage has points of its own"


def test_workers_share_the_points(spectral, storage):
    """Each waits in its first run until all have one."""
    met, found = threading.Barrier(3), {}

    def work(name):
        first = []

        def one(recipe):
            if not first:
                first.append(met.wait(60))
            return spectral(recipe)

        run, ran = counted(one)
        found[name] = (sweep(run, RATES, BASE, sharing=Sharing(storage, **QUICK)).rows, ran)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(rate for _, ran in found.values() for rate in ran) == sorted(RATES["learning_rate"])
    assert all(ran for _, ran in found.values())
    assert all(same(rows, found[0][0]) for rows, _ in found.values()), "each waits for the points of the others"


@pytest.mark.parametrize("kind", ["journal", pytest.param("sqlite", marks=pytest.mark.slow)])
def test_a_killed_workers_point_is_taken_up(spectral, tangent, kind, tmp_path):
    storage = storage_of(kind, tmp_path)
    save(tmp_path / "tangent.safetensors", tangent)
    script = Path(__file__).parents[2] / "support" / "sweep_worker.py"
    command = [sys.executable, str(script), str(tmp_path / "tangent.safetensors"), storage, "3"]
    environment = os.environ | {"PYTHONPATH": str(script.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run, ran = counted(spectral)
    found = sweep(run, RATES, BASE, sharing=Sharing(storage, **QUICK))
    assert sorted(ran) == sorted(RATES["learning_rate"][2:]), "the two that it had finished are not run again"
    assert [row.values["learning_rate"] for row in found.rows] == RATES["learning_rate"]
    alone = sweep(spectral, RATES, BASE)
    for row, other in zip(found.rows, alone.rows, strict=True):
        np.testing.assert_allclose(row.curve.train_loss, other.curve.train_loss, rtol=1e-6)


@pytest.mark.parametrize("torn", [b'{"op_code":8,"worker_id":"3', b'{"op_code":8}', b"\0\0\0"])
def test_a_record_that_a_killed_writer_left_unfinished_is_dropped(spectral, tmp_path, caplog, torn):
    journal = tmp_path / "study.journal"
    sharing = Sharing(str(journal), **QUICK)
    before = sweep(spectral, RATES, BASE, sharing=sharing)
    with journal.open("ab") as file:
        file.write(torn)
    for momentum in (0.5, 0.8):  # another sweep, whose records come after
        assert len(sweep(spectral, RATES, BASE.replace(momentum=momentum), sharing=sharing).rows) == 6
    assert same(sweep(spectral, RATES, BASE, sharing=sharing).rows, before.rows)
    assert [record.getMessage() for record in caplog.records if "dropped" in record.getMessage()] == [
        f"{journal}: dropped the last record, which was cut off"
    ]
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_a_journal_whose_last_line_was_cut_in_half_ends_its_sweep(spectral, tangent, tmp_path):
    """What is cut is the end of the last point: its worker has died, so that the point is taken from it."""
    save(tmp_path / "tangent.safetensors", tangent)
    journal, script = tmp_path / "study.journal", Path(__file__).parents[2] / "support" / "sweep_worker.py"
    command = [sys.executable, str(script), str(tmp_path / "tangent.safetensors"), str(journal), "7"]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(script.parent)}, check=True, timeout=300)
    whole = journal.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    journal.write_bytes(whole[: -len(last) // 2])
    run, ran = counted(spectral)
    alone = sweep(spectral, RATES, BASE)
    for _ in range(2):
        found = sweep(run, RATES, BASE, sharing=Sharing(str(journal), **QUICK))
        assert [row.status for row in found.rows] == [row.status for row in alone.rows]
    assert not ran, "what was found before the end was written is not run again"


def test_an_interrupted_worker_gives_its_point_back(spectral, storage, tmp_path):
    ran = []

    def one(recipe):
        ran.append(recipe.learning_rate)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return spectral(recipe)

    sharing = Sharing(storage, **QUICK)
    with pytest.raises(KeyboardInterrupt):
        sweep(OneByOne(one), RATES, BASE, sharing=sharing, output=tmp_path)
    assert len((tmp_path / "run.jsonl").read_text().splitlines()) == 2
    found = sweep(OneByOne(one), RATES, BASE, sharing=sharing, output=tmp_path)
    assert sorted(ran) == sorted([*RATES["learning_rate"], 0.005]) and len(found.rows) == 6
    assert len((tmp_path / "run.jsonl").read_text().splitlines()) == 6


def test_a_point_that_is_refused_is_not_tried_again(spectral, model, storage):
    blocks = [{"learning_rate": [0.01]}, {"low_rate": [0.001], "low_groups": [1], "weight_decay": [0.1]}]
    run, ran = counted(spectral)
    for _ in range(2):
        found = sweep(run, blocks, BASE, layer_groups=tuple(model.layer_groups), sharing=Sharing(storage, **QUICK))
        assert [row.status for row in found.rows] == ["finished", "refused"]
    assert len(ran) == 2


def test_distributions_are_drawn_once_for_all_workers(spectral, storage):
    drawn = grid({"learning_rate": "log:1e-4:0.01", "momentum": [0, 0.9]}, trials=5, seed=2)
    run, ran = counted(spectral)
    for _ in range(2):
        found = sweep(run, drawn, BASE, sharing=Sharing(storage, **QUICK))
        assert [row.values for row in found.rows] == drawn.points()
    assert len(ran) == 5


def test_a_search_makes_as_many_trials_as_asked_for(spectral, storage):
    space = grid({"learning_rate": "log:1e-4:0.02", "momentum": [0, 0.9]}, trials=6)
    run, ran = counted(spectral)
    for _ in range(2):
        found = sweep(run, space, BASE, sharing=Sharing(storage, "tpe", **QUICK))
    assert len(ran) == len(found.rows) == 6 == len({row.values["learning_rate"] for row in found.rows})
    with pytest.raises(LinftError, match="a search needs a grid of one block"):
        sweep(spectral, [{"momentum": [0]}, {"l2sp": [0]}], BASE, sharing=Sharing(storage, "tpe"))


def test_a_run_that_is_worse_than_the_others_is_pruned(model, digits, storage):
    """After the five runs that Optuna looks at first."""
    watch = Watch()
    run = linft.finetune(model, digits.holdout(0.3), record_every=2, tracking=watch)
    base = linft.Recipe(batch_size=8, steps=8, momentum=0.0, nesterov=False)
    points = {"learning_rate": [0.1, 0.11, 0.12, 0.13, 0.14, 1e-7]}
    found = sweep(run, points, base, sharing=Sharing(storage, watch=watch, **QUICK))
    assert [row.status for row in found.rows] == ["finished"] * 5 + ["pruned"]
    assert found.rows[-1].reason.endswith("was above the median")


def test_the_storage_is_optunas(spectral, storage):
    """What its dashboard shows: settings, and the error of every trial."""
    import optuna

    found = sweep(spectral, RATES, BASE, sharing=Sharing(storage, **QUICK), by="spectral")
    with opened(storage) as there:
        (name,) = optuna.study.get_all_study_names(there)
        trials = optuna.load_study(study_name=name, storage=there).trials
    assert name.startswith("linft spectral ")
    assert [trial.params["learning_rate"] for trial in trials] == RATES["learning_rate"]
    errors = [1.0 if row.test_accuracy is None else 1 - row.test_accuracy for row in found.rows]
    assert [trial.value for trial in trials] == errors
