"""Every experiment runs at the smallest scale on one task from a small network, and goes on from what is there."""

import importlib
import itertools

import drawn
import numpy as np
import options
import paired_rows
import pytest
import starts
import zoo
from flax import linen as nn

import linft
from linft.core.base import ClassMeans
from linft.core.errors import LinftError

FILES = {  # experiment -> what its results are
    "breaks": {"table.md", "figure.svg", "rows.jsonl", "config.json", "real", "predicted"},
    "sweep_truth": {"table.md", "figure.svg", "real", "predicted", "features"},
    "sources": {"table.md", "real", "predicted", "real-held-out", "predicted-held-out"},
    "regularisers": {"table.md", "real", "predicted", "real-held-out", "predicted-held-out"},
    "layers": {"table.md", "real", "predicted", "real-held-out", "predicted-held-out"},
    "effective_rate": {
        *("table.md", "momentum.svg", "sources.svg", "noise.svg"),
        *("real", "predicted", "real-held-out", "predicted-held-out"),
    },
    "advice": {"table.md", "rows.jsonl"},
    "predicted_vs_actual": {"table.md", "figure.svg", "rows.jsonl", "config.json"},
    "prediction_kinds": {"table.md", "figure.svg", "rows.jsonl", "config.json", "once.json"},
    "certificates": {"table.md", "figure.svg", "rows.jsonl", "config.json"},
    "selection": {"tables.md", "truth.jsonl", "scores.jsonl"},
    "augmentation": {"augmentation.jpg"},
    "training_mode": {"table.md", "figure.svg", "rows.jsonl", "config.json"},
    "augmented": {"table.md", "rows.jsonl", "config.json"},
    "adamw": {"table.md", "rows.jsonl", "config.json"},
}
TASKS = {
    "predicted_vs_actual": "hymenoptera",
    "prediction_kinds": "hymenoptera",
    "advice": "hymenoptera",
    "breaks": "mnist",
}
SWEEPS = ("sweep_truth", "breaks", "sources", "regularisers", "layers", "effective_rate")
ROWS = {
    "predicted_vs_actual": 8,
    "prediction_kinds": 2,
    "certificates": 4,
    "training_mode": 2,
    "augmented": 4,
    "adamw": 1,
    "advice": 1,
}
"""How many there are of one task: heads × losses × batch norms; heads; heads, twice; one."""
FIRST = {"effective_rate": ("sweep_truth", "sources")}
"""Experiments whose rows another one reads."""
SLOW = ("selection", "prediction_kinds", "sweep_truth", "breaks", "training_mode", "augmented", "adamw", "advice")
"""The first compiles every score for each network of the shipped zoo, the others a dozen runs of different kinds."""


class Small(nn.Module):
    """As many layer groups as the experiments tell apart, each of a layer."""

    @nn.compact
    def __call__(self, x, train=False):
        for i in (1, 2):
            x = nn.Conv(4, (3, 3), strides=2, use_bias=False, name=f"conv{i}")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, name=f"norm{i}")(x))
        return nn.Dense(5, name="head")(nn.relu(nn.Dense(6, name="hidden")(x.mean((1, 2)))))


@pytest.fixture
def small_models(monkeypatch):
    """A small network of other weights for every name of a shipped model."""

    def load_model(name):
        seed = sum(name.encode())
        means = np.random.default_rng(seed).normal(size=(5, 6)).astype(np.float32)
        means = ClassMeans(means, np.full(5, 10))
        return drawn.make(Small(), seed).replace(name=name, class_means=means)

    monkeypatch.setattr(linft, "load_model", load_model)
    starts.loaded.cache_clear()
    yield
    starts.loaded.cache_clear()


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Where every experiment has its results, those that read others' rows too."""
    return tmp_path_factory.mktemp("results")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in FILES])
def test_runs_and_goes_on_from_what_is_there(name, small_models, shared, output, monkeypatch, capsys):
    monkeypatch.chdir(output)
    experiment, task = importlib.import_module(name), TASKS.get(name, "digits")
    chosen = options.Options(data=shared / "data", output=output, tasks=(task,))
    for needed in FIRST.get(name, ()):
        importlib.import_module(needed).main(chosen)
    experiment.main(chosen)
    directory = output / name / "smoke"
    assert FILES[name] <= {path.name for path in directory.iterdir()}
    rows = {path: path.read_bytes() for path in directory.rglob("*.jsonl")}
    assert all(rows.values())
    if name in ROWS:
        assert len((directory / "rows.jsonl").read_text().splitlines()) == ROWS[name]
    for case in (case for case in cases(name) if case.task == task):
        assert f"| {task} |" in (directory / "table.md").read_text()
        for by, part in itertools.product(case.by, case.parts):
            found = paired_rows.rows_in(paired_rows.place(case, by, directory, part))
            points = case.points(starts.SIZES["smoke"].real_points if by == "real" else None)
            assert found.keys() == {paired_rows.key(point.values) for point in points}
            ended = [row for row in found.values() if row["status"] == "finished"]
            assert ended and all(np.isfinite(row["test_loss"]) and 0 <= row["test_accuracy"] <= 1 for row in ended)
    capsys.readouterr()
    experiment.main(chosen)
    assert {path: path.read_bytes() for path in directory.rglob("*.jsonl")} == rows


def cases(name):
    """What an experiment on hyperparameters runs."""
    experiment, sizes = importlib.import_module(name), starts.SIZES["smoke"]
    found = experiment.cases(sizes) if name in SWEEPS else []
    return [*found, *map(experiment.trained, found)] if name == "regularisers" else found


@pytest.mark.parametrize("name", SWEEPS)
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


@pytest.mark.slow
def test_a_zoo_is_trained_published_and_gone_on_with(shared, tmp_path, monkeypatch):
    """Of one narrow network and two sources, each alone and both with norms of their own."""
    both = ("cifar10", "sign_digits")
    narrow = zoo.Network("cifar_resnet8", {"width": 2}, zoo.BASE, again=0.02)
    monkeypatch.setattr(zoo, "NETWORKS", {"resnet14": narrow})
    monkeypatch.setattr(zoo, "SOURCES", {source: zoo.SOURCES[source] for source in both})
    monkeypatch.setattr(zoo, "NO_TARGETS", both)
    monkeypatch.setattr(zoo, "SHARINGS", {"multibn5": ("multi-bn", both, 2)})
    chosen, directory = options.Options(data=shared / "data", output=tmp_path), tmp_path / "zoo" / "smoke"
    zoo.main(chosen)

    def written() -> dict[str, int]:
        return {path.stem: path.stat().st_mtime_ns for path in (directory / "work").glob("*.safetensors")}

    first, tables = written(), (directory / "tables.md").read_text()
    assert first.keys() == {
        "resnet14-cifar10", "resnet14-sign_digits", "resnet14-cifar10-sign_digits",
        "multibn5-cifar10", "multibn5-sign_digits",
    }  # fmt: skip
    published = {path.stem for path in (directory / "weights").glob("*.safetensors")}
    left_out = {line.split()[0] for line in tables.splitlines() if " is left out: " in line}
    assert published | left_out == first.keys() and not published & left_out
    assert all(f"| {row} |" in tables for row in ("resnet14, from random weights", "multibn5"))
    (directory / "work" / "resnet14-sign_digits.safetensors").unlink()
    zoo.main(chosen)
    assert {name for name, at in written().items() if at != first[name]} == {"resnet14-sign_digits"}
