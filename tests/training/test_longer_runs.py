"""A run that is asked for again with a greater length goes on from where it ended."""

import jax
import numpy as np
import pytest
import yaml
from narrow import small_resnet

import linft
from linft.core.errors import LinftError
from linft.runtime import schema
from linft.training.result import RunResult
from linft.training.run_directory import run_in

RECIPE = linft.Recipe(learning_rate=0.01, momentum=0.9, batch_size=10)


@pytest.fixture(scope="module")
def start():
    task = linft.load_task("digits").subset(40, 20)
    return small_resnet(10), task


def test_at_a_constant_rate_it_ends_as_if_asked_for_at_first(start, tmp_path):
    straight = run_in(tmp_path / "straight", *start, RECIPE.replace(steps=7))
    run_in(tmp_path / "longer", *start, RECIPE.replace(steps=3))
    longer = run_in(tmp_path / "longer", *start, RECIPE.replace(steps=7))
    for part in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, getattr(longer.model, part), getattr(straight.model, part))
    curves = longer.result.trajectory
    assert curves.steps == straight.result.trajectory.steps == list(range(8))
    assert curves.train_loss == straight.result.trajectory.train_loss
    assert yaml.safe_load((tmp_path / "longer" / "config.yaml").read_text())["recipe"]["steps"] == 7
    assert schema.read(tmp_path / "longer" / "result.json", RunResult) == longer.result
    before = (tmp_path / "longer" / "result.json").stat().st_mtime_ns
    run_in(tmp_path / "longer", *start, RECIPE.replace(steps=7))
    assert (tmp_path / "longer" / "result.json").stat().st_mtime_ns == before  # only read


def test_of_a_schedule_over_the_whole_run_the_longer_holds_and_it_is_said(start, tmp_path, caplog):
    cosine = RECIPE.replace(schedule="cosine", epochs=1)
    run_in(tmp_path, *start, cosine)
    assert not caplog.text
    done = run_in(tmp_path, *start, cosine.replace(epochs=2))
    assert done.result.trajectory.steps[-1] == 8
    assert "goes on to a greater length: its steps so far had the cosine rates of the shorter" in caplog.text


def test_what_else_differs_is_still_refused(start, tmp_path):
    run_in(tmp_path, *start, RECIPE.replace(steps=2))
    for other in (RECIPE.replace(steps=1), RECIPE.replace(steps=3, momentum=0.8), RECIPE.replace(epochs=1)):
        with pytest.raises(LinftError, match="holds a run with another recipe"):
            run_in(tmp_path, *start, other)
