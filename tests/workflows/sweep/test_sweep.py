"""A sweep finds what its runs find one by one, keeps it as it comes, and goes on where it was."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from drawn import Normed, make
from swept import BASE

import linft
from linft import predict
from linft.core.base import OneByOne
from linft.core.errors import LinftError
from linft.core.recipe_fields import nearest
from linft.models.reinitialize import reinitialize
from linft.predict.sharpening import Edge
from linft.runtime import schema
from linft.workflows.sweep.grid import at, grid
from linft.workflows.sweep.result import SweepResult, best_first, rows_in
from linft.workflows.sweep.sweep import parts, sweep

GRID = {"learning_rate": [0.02, 0.005, 1e4], "momentum": [0, 0.9], "weight_decay": [0, 0.1]}
STEPS = linft.Recipe(batch_size=8, steps=12)


@pytest.fixture(scope="module")
def dual(tangent):
    return predict.dual(tangent, record_every=10)


@pytest.fixture(scope="module")
def swept(dual):
    return sweep(dual, GRID, STEPS)


def test_rows_are_what_the_run_finds_alone(dual, swept):
    assert [row.values for row in swept.rows] == grid(GRID).points()
    for row in swept.rows:
        alone = dual(STEPS.replace(**row.values))
        assert row.status == ("finished" if alone.diverged_at is None else "diverged")
        np.testing.assert_allclose(row.curve.test_loss, alone.test_loss, rtol=1e-4)
        assert row.curve.steps == alone.steps.tolist()
        if alone.diverged_at is None:
            assert row.test_loss == row.curve.test_loss[-1]
        else:
            assert row.test_accuracy is None and row.diverged_at == alone.diverged_at
    assert {row.status for row in swept.rows} == {"finished", "diverged"}
    np.testing.assert_allclose(swept.rows[2].effective_rate, 0.2)


def test_the_best_is_of_those_that_finished(swept):
    finished = [row for row in swept.rows if row.status == "finished"]
    assert swept.best().test_accuracy == max(row.test_accuracy for row in finished)
    assert swept.best("test_loss").test_loss == min(row.test_loss for row in finished)


def test_points_far_above_the_edge_are_not_the_best(dual, swept, tmp_path):
    best, asked = swept.best(), []

    def edge(point):
        asked.append(point.values)
        return Edge(1, 5.0) if point.values == best.values else None if point.recipe.momentum else Edge(None, 0.5)

    found = sweep(dual, GRID, STEPS, output=tmp_path, edge=edge)
    assert found.rows[0].edge_on_path == Edge(None, 0.5) and len(asked) == len(found.rows)
    others = [row for row in found.rows if row.status == "finished" and row.values != best.values]
    assert found.best() in others and found.best().test_accuracy == max(row.test_accuracy for row in others)
    assert min((row for row in found.rows if row.status == "finished"), key=best_first) in others
    again = sweep(dual, GRID, STEPS, output=tmp_path, edge=edge)
    assert again.rows == found.rows
    everywhere = sweep(dual, GRID, STEPS, edge=lambda point: Edge(1, 5.0))
    assert everywhere.best().values == best.values


def test_points_are_predicted_in_parts_of_one_size(dual, swept, monkeypatch):
    sizes = []
    monkeypatch.setattr("linft.workflows.sweep.sweep.TOGETHER", 5)

    class Counted:
        def __call__(self, recipe):
            return dual(recipe)

        def many(self, recipes):
            sizes.append(len(recipes))
            return dual.many(recipes)

    found = sweep(Counted(), GRID, STEPS)
    assert sizes == [4, 4, 4]
    assert [row.status for row in found.rows] == [row.status for row in swept.rows]
    for one, other in zip(found.rows, swept.rows, strict=True):
        np.testing.assert_allclose(one.curve.train_loss, other.curve.train_loss, rtol=1e-4)


def test_parts_hold_every_point_and_are_filled_up(monkeypatch):
    monkeypatch.setattr("linft.workflows.sweep.sweep.TOGETHER", 4)
    points = [at({"seed": i}, STEPS, linft.LayerSettings(), ()) for i in range(9)]
    found = parts(points)
    assert [len(part) for part in found] == [3, 3, 3] and [point for part in found for point in part] == points
    assert [[p.values["seed"] for p in part] for part in parts(points[:5])] == [[0, 1, 2], [3, 4, 4]]
    assert parts([]) == []


def test_what_a_kernel_cannot_follow_is_dropped_and_told(dual):
    found = sweep(dual, {"momentum": [0.9]}, STEPS.replace(batch_norm="train", augmentation="flip"))
    assert found.dropped == ["dropped: batch_norm=train, augmentation=flip"]
    expected = dual(STEPS)
    np.testing.assert_allclose(found.rows[0].curve.test_loss, expected.test_loss, rtol=1e-5)


def test_each_batch_norm_has_a_kernel_of_its_own(digits):
    model, made = make(Normed()), []

    def start(point):
        made.append(predict.dual(model, digits, batch_norm=point.recipe.batch_norm, outputs="trace"))
        return made[-1]

    found = sweep(start, {"learning_rate": [0.02, 0.01], "batch_norm": ["train", "frozen"]}, STEPS)
    assert [run.batch_norm for run in made] == ["train", "frozen"] and found.dropped == []
    for row, run in zip(found.rows, made * 2, strict=True):
        np.testing.assert_allclose(row.curve.test_loss, run(STEPS.replace(**row.values)).test_loss, rtol=1e-4)
    assert found.rows[0].curve.test_loss[0] != found.rows[1].curve.test_loss[0]


def test_new_layer_groups_need_a_start_of_their_own(model, digits, tangent):
    made = []

    def start(point):
        made.append(point.reinit_groups)
        return predict.dual(reinitialize(model, point.reinit_groups, jax.random.key(1)), digits, outputs="trace")

    names = tuple(model.layer_groups)
    points = {"reinit_groups": [2, 1], "learning_rate": [0.01, 0.001]}
    found = sweep(start, points, STEPS, layer_groups=names)
    assert made == [2, 1] and found.start_seconds > 0
    first = [row.curve.train_loss[0] for row in found.rows]
    assert first[0] == first[1] != first[2] == first[3]
    with pytest.raises(LinftError, match="reinit_groups varies; in place of a Run give a function"):
        sweep(predict.dual(tangent), points, STEPS, layer_groups=names)


def test_settings_by_depth_are_those_of_the_recipe(dual, model):
    names = tuple(model.layer_groups)
    low = {"low_rate": [0.001], "low_groups": [2], "learning_rate": [0.02]}
    by_hand = STEPS.replace(learning_rate=0.02, rate_multipliers=((names[0], 0.05), (names[1], 0.05)))
    found = sweep(dual, low, STEPS, layer_groups=names)
    np.testing.assert_allclose(found.rows[0].curve.test_loss, dual(by_hand).test_loss, rtol=1e-4)


class Counting:
    """A run of one recipe at a time that may be stopped before the n-th."""

    def __init__(self, run, stop_before=None):
        self.run, self.stop_before, self.ran = run, stop_before, []

    def one_by_one(self):
        def one(recipe):
            if len(self.ran) == self.stop_before:
                raise KeyboardInterrupt
            self.ran.append(recipe)
            return self.run(recipe)

        return OneByOne(one)


RATES = {"learning_rate": [0.02, 0.01, 0.005, 0.002]}


def test_an_interrupted_sweep_goes_on_with_what_is_missing(spectral, tmp_path):
    first, second = Counting(spectral, stop_before=2), Counting(spectral)
    with pytest.raises(KeyboardInterrupt):
        sweep(first.one_by_one(), RATES, BASE, output=tmp_path)
    with (tmp_path / "run.jsonl").open("a") as file:
        file.write('{"values": {"learning_rate": 0.0')  # and then the process was killed
    done = []
    found = sweep(second.one_by_one(), RATES, BASE, output=tmp_path, progress=lambda *told: done.append(told))
    assert [recipe.learning_rate for recipe in second.ran] == RATES["learning_rate"][2:]
    assert done == [("run", 3, 4), ("run", 4, 4)]
    whole = sweep(spectral, RATES, BASE)
    for row, other in zip(found.rows, whole.rows, strict=True):
        assert replace(row, seconds=0.0) == replace(other, seconds=0.0)
    again = Counting(spectral, stop_before=0)
    assert sweep(again.one_by_one(), RATES, BASE, output=tmp_path).rows == found.rows
    written = schema.read(tmp_path / "sweep.json", SweepResult)
    assert written.schema == "linft-sweep-1" and written.sweeps["run"].rows == found.rows
    assert written.recipe == BASE
    assert len(rows_in(tmp_path / "run.jsonl")) == 4


def test_sweeps_of_several_runs_are_kept_side_by_side(spectral, dual, tmp_path):
    sweep(spectral, RATES, BASE, output=tmp_path, by="spectral")
    sweep(dual, RATES, BASE, output=tmp_path, by="dual")
    sweeps = schema.read(tmp_path / "sweep.json", SweepResult).sweeps
    assert list(sweeps) == ["spectral", "dual"]
    for one, other in zip(sweeps["spectral"].rows, sweeps["dual"].rows, strict=True):
        np.testing.assert_allclose(one.curve.train_loss, other.curve.train_loss, rtol=1e-3)


def test_of_two_workers_that_end_at_once_none_is_lost(spectral, tmp_path, monkeypatch):
    """The second one begins and ends while the first is about to write sweep.json."""
    first, write = [True], schema.write

    def late(path, content):
        if first:
            first.clear()
            sweep(spectral, RATES, BASE, output=tmp_path, by="two")
            sweep(spectral, RATES, BASE, output=tmp_path, by="one")
        write(path, content)

    monkeypatch.setattr(schema, "write", late)
    sweep(spectral, RATES, BASE, output=tmp_path, by="one")
    sweeps = schema.read(tmp_path / "sweep.json", SweepResult).sweeps
    assert {by: len(of.rows) for by, of in sweeps.items()} == {"one": 4, "two": 4}
    calls = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    assert [call["by"] for call in calls] == ["one", "two", "one"]
    assert sweeps["one"].seconds == pytest.approx(calls[0]["seconds"] + calls[2]["seconds"])


def test_a_directory_of_another_sweep_is_refused(spectral, tmp_path):
    sweep(spectral, RATES, BASE, output=tmp_path, described={"model": "small"})
    for changes, named in (
        ({"base": BASE.replace(momentum=0.0)}, "recipe"),
        ({"of": {"learning_rate": [0.1]}}, "grid"),
        ({"described": {"model": "large"}}, "model"),
    ):
        arguments = {"of": RATES, "base": BASE, "described": {"model": "small"}} | changes
        with pytest.raises(LinftError, match=f"holds results with another {named}.*; give what it was begun with"):
            sweep(spectral, output=tmp_path, **arguments)


def test_a_point_that_a_run_refuses_is_told_and_the_others_go_on(spectral, model):
    names = tuple(model.layer_groups)
    blocks = [{"learning_rate": [0.01]}, {"low_rate": [0.001], "low_groups": [1], "weight_decay": [0.1]}]
    found = sweep(spectral, blocks, BASE, layer_groups=names)
    assert [row.status for row in found.rows] == ["finished", "refused"]
    assert "groups differ in rate or decay while some decay" in found.rows[1].reason


def test_the_nearest_recipe_in_closed_form_has_as_many_steps():
    recipe = linft.Recipe(epochs=3, batch_size=10, schedule="cosine", batch_norm="train")
    near, note = nearest(recipe, "closed form", 35)
    assert predict.why_not_spectral(near, 35) is None and near.num_steps(35) == recipe.num_steps(35) == 9
    assert note == "dropped: schedule=cosine, batch_size=10, loss=cross_entropy, batch_norm=train"
    assert nearest(BASE, "closed form", 24) == (BASE, "")
