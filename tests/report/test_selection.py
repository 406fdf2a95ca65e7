"""Tables and figures of the benchmark of model selection say what its selections say."""

from dataclasses import replace

import numpy as np
import pytest

from linft.report.selection import ZooResult, tables, write
from linft.workflows.benchmark.selections import Selection
from linft.workflows.benchmark.zoos import Zoo

MODELS = ("reference", "a", "b", "c")
ACCURACIES = np.array([0.5, 0.6, 0.7, 0.8])
SECONDS = np.array([2.0, 2.0, 4.0, 4.0])


def selection(target: str, shots, seed: int = 0) -> Selection:
    scores = {"right": ACCURACIES, "wrong": -ACCURACIES, "absent": np.full(4, np.nan)}
    return Selection(target, shots, seed, MODELS, ACCURACIES, SECONDS, scores, {"right": np.full(4, 0.25)})


CHOICES = [selection("one", 5), selection("one", 5, 1), selection("two", 5), selection("two", "full")]


def row(table: str, *first: str) -> list[str]:
    """The cells of the only row that begins with these."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    (found,) = [line for line in cells if line[: len(first)] == list(first)]
    return found[len(first) :]


def test_scores():
    table = tables.scores(CHOICES, "reference")
    top1, top3, regret1, _, trials, spearman, *_ = row(table, "right")
    assert (top1, top3, regret1) == (*["+30.0 (+30.0 to +30.0)"] * 2, "+0.0 (+0.0 to +0.0)")
    assert (trials, spearman) == ("1.0 (1.0 to 1.0)", "1.00 (1.00 to 1.00)")
    top1, top3, regret1, *_ = row(table, "wrong")
    assert (top1, top3, regret1) == ("+0.0 (+0.0 to +0.0)", "+20.0 (+20.0 to +20.0)", "+30.0 (+30.0 to +30.0)")
    assert table.index("| right |") < table.index("| wrong |")
    assert "Best by gain of top 3 in the bootstrap's draws: right 100%" in table
    assert row(tables.scores(CHOICES, "none"), "right")[0] == "–"


def test_costs_are_in_fine_tunings_of_the_reference():
    table = tables.costs(CHOICES, "reference")
    assert row(table, "5", "all models, fine-tuned")[0] == "6.00×"
    assert row(table, "5", "right") == ["0.50×", "5.00×"]


def test_costs_of_another_device_are_left_out():
    elsewhere = replace(CHOICES[0], finetuning_seconds=np.full(4, np.nan))
    assert tables.costs([elsewhere, *CHOICES[1:]], "reference") == tables.costs(CHOICES[1:], "reference")
    assert "do not compare" in tables.costs([elsewhere], "reference")


def test_accuracies():
    assert row(tables.accuracies(CHOICES, "reference"), "one", "5") == [
        "2", "50.0%", "80.0% (c)", "50.0% (reference)", "3 of 4",
    ]  # fmt: skip


@pytest.mark.parametrize("selections", [CHOICES, CHOICES[:1]], ids=["several", "one"])
def test_files(tmp_path, selections):
    own = Zoo("single", "Single-domain experts", "reference", {"one": MODELS, "two": MODELS})
    full = [selection("two", "full")]
    results = [ZooResult(own, selections, {"10": full, "25": full, "50": []}), ZooResult(own, [], {})]
    paths = write(results, "Some runs.\n", tmp_path)
    assert {path.name for path in paths} == {
        "tables.md", "single_gains.svg", "single_measures.svg", "single_accuracies.svg", "single_images.svg",
    }  # fmt: skip
    assert "right" in (tmp_path / "single_gains.svg").read_text()
    before = {path: path.read_bytes() for path in paths}
    write(results, "Some runs.\n", tmp_path)
    assert {path: path.read_bytes() for path in paths} == before
