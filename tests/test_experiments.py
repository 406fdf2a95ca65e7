"""Every experiment runs at the smallest scale on one task, and goes on from what is there."""

import importlib

import numpy as np
import options
import paired_rows
import pytest
import starts

from linft.core.errors import LinftError

FILES = {  # experiment -> what its results are
    "sweep_truth": {"table.md", "figure.svg", "real", "predicted", "features"},
    "sources": {"table.md", "real", "predicted"},
    "regularisers": {"table.md", "real", "predicted"},
    "layers": {"table.md", "real", "predicted", "real-held-out", "predicted-held-out"},
    "effective_rate": {"table.md", "momentum.svg", "sources.svg", "noise.svg", "real", "predicted"},
    "advice": {"table.md", "rows.jsonl"},
    "predicted_vs_actual": {"table.md", "figure.svg", "rows.jsonl", "config.json"},
    "prediction_kinds": {"table.md", "figure.svg", "rows.jsonl", "config.json", "once.json"},
    "selection": {"tables.md", "truth.jsonl", "scores.jsonl"},
    "augmentation": {"augmentation.jpg"},
    "training_mode": {"table.md", "rows.jsonl", "config.json"},
}
TASKS = {"sweep_truth": "hymenoptera", "layers": "hymenoptera", "advice": "hymenoptera", "regularisers": "hymenoptera"}
TASKS |= {"sources": "hymenoptera", "predicted_vs_actual": "hymenoptera", "prediction_kinds": "hymenoptera"}
QUICK = ("regularisers", "augmentation")
"""In the default suite: those that share all that runs have in common; the others compile for a minute or more each."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in FILES])
def test_runs_and_goes_on_from_what_is_there(name, shared, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    experiment = importlib.import_module(name)
    chosen = options.Options(data=shared / "data", output=tmp_path, tasks=(TASKS.get(name, "digits"),))
    experiment.main(chosen)
    directory = tmp_path / name / "smoke"
    assert FILES[name] <= {path.name for path in directory.iterdir()}
    rows = {path: path.read_bytes() for path in directory.rglob("*.jsonl")}
    assert all(rows.values())
    capsys.readouterr()
    experiment.main(chosen)
    assert {path: path.read_bytes() for path in directory.rglob("*.jsonl")} == rows


@pytest.mark.parametrize("name", sorted({"sweep_truth", "sources", "regularisers", "layers", "effective_rate"}))
def test_real_points_are_predicted_too(name):
    experiment, sizes = importlib.import_module(name), starts.SIZES["smoke"]
    cases = experiment.cases(sizes)
    real = [experiment.trained(case) for case in cases] if name == "regularisers" else cases
    for case, of_real in zip(cases, real, strict=True):
        keys = [{str(point.values) for point in of.points(most)} for of, most in ((of_real, 1), (of_real, None))]
        assert keys[0] < keys[1] <= {str(point.values) for point in case.points()}


def test_a_task_that_an_experiment_does_not_know_is_named():
    with pytest.raises(LinftError, match="no task is named dogs; they are digits, fashion"):
        options.Options(tasks=("digits", "dogs")).chosen(("digits", "fashion"))


def test_held_out_images_are_training_images_that_nothing_is_trained_on(shared):
    laptop = options.Options("laptop", shared / "data")
    whole = starts.linft.load_task("digits")
    parts = [starts.task_of("digits", laptop, part) for part in ("test", "held-out")]
    for images in (parts[0].x_train, parts[1].x_test):
        assert {image.tobytes() for image in images} <= {image.tobytes() for image in whole.x_train}
    np.testing.assert_array_equal(parts[0].x_train, parts[1].x_train)
    seen = [{image.tobytes() for image in images} for images in (parts[0].x_train, *(part.x_test for part in parts))]
    assert sum(map(len, seen)) == len(set.union(*seen)) > 300


def test_points_are_chosen_where_they_are_held_out_and_measured_where_not():
    def pair(rate, predicted, real):
        values = {"values": {"learning_rate": rate}, "status": "finished", "test_loss": 1.0}
        row = {**values, "effective_rate": rate, "edge": 1e6}
        return {**row, "test_accuracy": predicted}, {**row, "test_accuracy": real}

    measured = [pair(0.1, 0.5, 0.4), pair(0.2, 0.9, 0.6), pair(0.3, 0.1, 0.8)]
    held_out = [pair(0.1, 0.8, 0.3), pair(0.2, 0.7, 0.9), pair(0.3, 0.1, 0.8)]
    found = paired_rows.best(measured, 30, held_out)
    assert (found.real["test_accuracy"], found.predicted["test_accuracy"], found.taken["test_accuracy"]) == (
        0.6,
        0.5,
        0.4,
    )
    flattered = paired_rows.best(measured, 30)
    assert (flattered.real["test_accuracy"], flattered.predicted["test_accuracy"]) == (0.8, 0.9)


def test_a_start_with_new_norms_has_the_statistics_of_the_task(shared):
    task = starts.task_of("digits", options.Options("smoke", shared / "data"))
    one, two = (starts.start(starts.SOURCE, task, groups) for groups in (1, 2))
    norm = lambda model, block: np.asarray(model.batch_stats["stage3"][block]["norm1"]["var"])  # noqa: E731
    pretrained = starts.loaded(starts.SOURCE)
    np.testing.assert_array_equal(norm(one, "block1"), norm(pretrained, "block1"))
    assert np.ptp(norm(two, "block1")) > 0.01  # not the 1 of a new norm
    assert (norm(two, "block0") != norm(pretrained, "block0")).all()
