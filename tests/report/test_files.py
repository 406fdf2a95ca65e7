"""What a report leaves on disk."""

import csv
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest
from PIL import Image

from linft import report
from linft.core.errors import LinftError
from linft.report.figures import FIGURES
from linft.report.page import figure_files, render
from linft.runtime import schema
from linft.workflows.compare.result import ComparisonResult

SVG = "{http://www.w3.org/2000/svg}"


def test_every_file_is_written(written: Path):
    figures = {f"figures/{name}.{kind}" for name in FIGURES for kind in ("svg", "png")}
    found = {path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()}
    assert found == figures | {"report.html", "trajectories.csv"}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_open(written: Path, name: str):
    root = ElementTree.parse(written / f"figures/{name}.svg").getroot()
    assert root.tag == f"{SVG}svg"
    assert any((text.text or "").strip() for text in root.iter(f"{SVG}text")), "text is drawn as text"
    assert root.find(f"{SVG}metadata") is None
    with Image.open(written / f"figures/{name}.png") as image:
        image.load()
        assert image.width == 1500


def test_the_table_has_every_point_of_every_curve(written: Path, result: ComparisonResult):
    with (written / "trajectories.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    groups = [f"distance_{group}" for group in result.model.layer_groups]
    columns = ["run", "step", "train_loss", "test_loss", "train_accuracy", "test_accuracy", *groups]
    assert list(rows[0]) == columns
    for name, run in result.runs.items():
        mine = [row for row in rows if row["run"] == name]
        assert [int(row["step"]) for row in mine] == run.steps
        assert [float(row["test_loss"]) for row in mine] == run.test_loss
        assert [float(row[groups[0]]) for row in mine] == next(iter(run.distance.values()))


def test_null_is_empty_in_the_table(result: ComparisonResult):
    from linft.report.trajectories import table

    first = table({"dual": replace(result.runs["dual"], train_loss=[None] * 7)}).splitlines()[1]
    assert first.startswith("dual,0,,")


@pytest.mark.slow
def test_the_same_result_gives_the_same_bytes(written: Path, result: ComparisonResult):
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"lines.linewidth": 9.0, "svg.fonttype": "path"}):  # a user's own configuration
        again = figure_files(result) | {"report.html": render(result).encode()}
    assert dict(matplotlib.rcParams) == before, "no global state is left behind"
    for name, content in again.items():
        assert content == (written / name).read_bytes(), name


def test_a_directory_that_cannot_be_written_is_told(result: ComparisonResult, tmp_path: Path, monkeypatch):
    for name, nothing in {"figure_files": {}, "render": ""}.items():  # which take long to draw
        monkeypatch.setattr(f"linft.report.page.{name}", lambda result, nothing=nothing: nothing)
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(LinftError, match=r"cannot write .*choose a directory"):
        report.write(result, tmp_path / "taken")


def test_a_result_on_disk_is_read_as_it_was_written(result: ComparisonResult, tmp_path: Path):
    schema.write(tmp_path / "result.json", result)
    assert report.read(tmp_path / "result.json") == result
    (tmp_path / "result.json").write_text(json.dumps(schema.content(result) | {"schema": "something else"}))
    with pytest.raises(LinftError, match="is of schema something else, and this one reads linft-compare-2"):
        report.read(tmp_path / "result.json")
