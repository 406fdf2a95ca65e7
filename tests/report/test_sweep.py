"""The page of a sweep: readable without a network, with every point where it belongs."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from drawn import make
from pages import Reader
from swept import Net

import linft
from linft.core.base import Certificate
from linft.report import sweep as page
from linft.runtime import schema
from linft.workflows.sweep.result import Row, SweepResult
from linft.workflows.sweep.sweep import sweep

GRID = {"learning_rate": [0.05, 0.01, 0.001], "momentum": [0.0, 0.9], "weight_decay": [0.0, 0.01]}


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> SweepResult:
    """Predicted and really trained, on 20 digits."""
    directory = tmp_path_factory.mktemp("swept")
    task = linft.load_task("digits").subset(20, 20)
    model = make(Net())
    base = linft.Recipe(batch_size=10, steps=6, augmentation="flip")
    described = {"model": {"name": model.name}, "task": {"name": "<b>digits</b>", "held_out": None}}
    for by, run in (("dual", linft.predict.dual(model, task)), ("finetune", linft.finetune(model, task))):
        sweep(run, GRID, base, output=directory, by=by, described=described)
    return schema.read(directory / "sweep.json", SweepResult)


@pytest.fixture(scope="module")
def written(content) -> str:
    return page.render(content)


def test_nothing_is_fetched_or_run(written):
    read = Reader(written)
    assert not read.tags & {"script", "link", "img", "iframe", "image"}
    assert all(value.startswith("#") for name, value in read.attributes if name in ("src", "href", "xlink:href"))
    assert not re.search(r"https?://|@import|url\((?!#)", written)


def test_identifiers_are_unique_and_references_resolve(written):
    attributes = Reader(written).attributes
    names = [value for name, value in attributes if name == "id"]
    assert len(names) == len(set(names))
    used = {value[1:] for name, value in attributes if name == "href"} | set(re.findall(r"url\(#([^)]+)\)", written))
    assert used <= set(names)


def test_every_figure_is_there_for_a_desk_and_for_a_phone(written):
    assert written.count('role="img" aria-label="') == 2 * len(page.FIGURES)
    text = Reader(written).text
    assert all(word in text for word in ("Predicted", "Real", "Difference", "weight decay 0.01", "m = 0.9"))


def test_every_point_has_its_number_in_the_heat_maps(content, written):
    wide = written[written.index('<figure id="heat_maps"') : written.index('<div class="narrow"')]
    cells = [float(cell) for cell in re.findall(r">(\d+)</text>", wide)]
    for name in ("dual", "finetune"):
        for row in content.sweeps[name].rows:
            assert round(100 * row.test_accuracy) in cells


def test_the_best_points_and_what_was_dropped_are_told(content, written):
    text = Reader(written).text
    best = max(content.sweeps["finetune"].rows, key=lambda row: row.test_accuracy)
    assert f"Of 12 points the best reached {100 * best.test_accuracy:.1f}% of the test images" in text
    assert "dropped: augmentation=flip" in text
    assert "<b>digits</b>" not in written and "<b>digits</b>" in text


def test_predictions_that_say_that_they_do_not_hold_are_in_question(content):
    predicted = content.sweeps["dual"]
    errors = [0.05, None] + [0.2] * (len(predicted.rows) - 2)
    rows = [replace(r, certificate=Certificate(e, 0.1, 3, 1.0)) for r, e in zip(predicted.rows, errors, strict=True)]
    read = page.render(replace(content, sweeps={"moving": replace(predicted, rows=rows)}))
    text = Reader(read).text
    assert (
        "1 of 12 predictions say of themselves that they hold to within 10.0%; their kernels moved along 12 paths."
        in text
    )
    assert "A question mark: the prediction does not say of itself that it holds." in text
    wide = read[read.index('<figure id="heat_maps"') : read.index('<div class="narrow"')]
    assert len(re.findall(r">\d+\?</text>", wide)) == 11


def test_a_prediction_alone_has_a_page(content):
    alone = replace(content, sweeps={"dual": content.sweeps["dual"]})
    text = Reader(page.render(alone)).text
    assert "the best is predicted to reach" in text and "Predicted and real" not in text


def with_rows(content: SweepResult, change: Callable[[list[Row]], list[Row]]) -> SweepResult:
    """The sweeps with other rows."""
    return replace(content, sweeps={by: replace(of, rows=change(of.rows)) for by, of in content.sweeps.items()})


def test_points_that_did_not_end_are_crossed_out(content):
    def lost(row: Row) -> Row:
        return replace(row, status="diverged", test_accuracy=None, test_loss=None, train_loss=None)

    changed = with_rows(content, lambda rows: list(map(lost, rows)))
    text = Reader(page.render(changed)).text
    assert "None of 12 points ended" in text and text.count("×") >= 24
    Reader(page.render(with_rows(changed, lambda rows: [replace(rows[0], status="refused"), *rows[1:]])))


def test_one_setting_alone_has_no_heat_map(content):
    def plain(rows: list[Row]) -> list[Row]:
        own = [row for row in rows if row.values["momentum"] + row.values["weight_decay"] == 0]
        return [replace(row, values={"learning_rate": row.values["learning_rate"]}) for row in own]

    changed = with_rows(content, plain)
    written = page.render(changed)
    assert '<figure id="heat_maps"' not in written and '<figure id="parallel_coordinates"' in written


def test_it_is_written_whole(content, written, tmp_path):
    assert page.write(content, tmp_path).read_text() == written
    assert [file.name for file in tmp_path.iterdir()] == ["sweep.html"]
