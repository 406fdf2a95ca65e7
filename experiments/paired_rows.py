"""Real and predicted rows of the same recipes, and which of them are best.

An experiment is a list of cases: a task, a model to start from, and a grid of settings around a recipe of
constant rate. Every point is run once, for the long budget, and measured on the way, so that its values at the
short budget are those of the shorter run. Rows are lines of DIRECTORY/BY/TASK-CASE.jsonl, written as they are
found: any number of processes may run different tasks at once, and a call that was interrupted goes on from there.
Where points are chosen on held-out training images, the same runs measured on those are rows of
DIRECTORY/BY-held-out.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from options import Options
from starts import SIZES, SOURCE, Part, Sizes, loaded, start, tangent_of, task_of

import linft
from linft import predict
from linft.core.base import Task
from linft.core.layer_settings import LayerSettings
from linft.runtime import json_lines, schema
from linft.runtime.claims import claim
from linft.workflows.advise.initialization import Initialization
from linft.workflows.advise.measures import curvature
from linft.workflows.advise.rules import safe
from linft.workflows.sweep import agreement, result
from linft.workflows.sweep.grid import Point, Source, at, grid
from linft.workflows.sweep.result import FINALS, key
from linft.workflows.sweep.sweep import run_points

By = Literal["real", "predicted", "features"]
Row = dict[str, Any]
"""A row of a sweep as JSON has it; of a prediction with `edge`."""


@dataclass(frozen=True)
class Case:
    """Recipes of one task from one start."""

    task: str
    name: str
    grid: Source
    base: linft.Recipe
    model: str = SOURCE
    by: tuple[By, ...] = ("real", "predicted")
    """How its points are found."""
    parts: tuple[Part, ...] = ("test",)
    """On what they are measured."""

    @property
    def file(self) -> str:
        """Where its rows are."""
        return f"{self.task}-{self.name}.jsonl"

    def points(self, most: int | None = None) -> list[Point]:
        """Every point of the grid, or at most so many of each of its blocks, the last ones."""
        groups = tuple(loaded(self.model).layer_groups)
        whole = grid(self.grid, len(groups))
        blocks = [dataclasses.replace(whole, blocks=(block,)).points() for block in whole.blocks]
        kept = [values for block in blocks for values in block[-(most or len(block)) :]]
        return [at(values, self.base, LayerSettings(), groups) for values in kept]


def carry_out(cases: Sequence[Case], directory: Path, options: Options) -> None:
    """Run what is missing of every case of the chosen tasks, really or by its kernel."""
    if "run" not in options.do:
        return
    tasks = options.chosen(case.task for case in cases)
    for case in cases:
        if case.task in tasks:
            for by, part in itertools.product(case.by, case.parts):
                run(case, by, directory, options, part)


def run(case: Case, by: By, directory: Path, options: Options, part: Part) -> None:
    """Write the rows of a case that are missing."""
    lines, task, sizes = place(case, by, directory, part), task_of(case.task, options, part), SIZES[options.scale]
    recipe = dataclasses.asdict(case.base)
    identity = {"model": loaded(case.model).digest, "task": task.digest, "recipe": recipe}
    claim(lines.with_suffix(".json"), identity | {"record_every": sizes.record_every}, "rows")
    done = rows_in(lines)
    planned = case.points(sizes.real_points if by == "real" else None)
    missing = [point for point in planned if key(point.values) not in done]
    for reinit_groups in dict.fromkeys(point.reinit_groups for point in missing):
        of_start = [point for point in missing if point.reinit_groups == reinit_groups]
        for rows in ROWS[by](case, task, reinit_groups, of_start, sizes):
            json_lines.append(lines, rows)
            print(f"{by} {case.file} {part}: {', '.join(map(str, rows[-1]['values'].values()))}", flush=True)


def place(case: Case, by: By, directory: Path, part: Part = "test") -> Path:
    """The file of a case's rows."""
    return directory / (by if part == "test" else f"{by}-{part}") / case.file


def really(case: Case, task: Task, reinit_groups: int, points: Sequence[Point], sizes: Sizes) -> Iterator[list[Row]]:
    """Rows of real runs."""
    run = linft.finetune(start(case.model, task, reinit_groups), task, record_every=sizes.record_every)
    for rows in run_points(run, points):
        yield list(map(schema.content, rows))


def predicted_rows(
    case: Case, task: Task, reinit_groups: int, points: Sequence[Point], sizes: Sizes
) -> Iterator[list[Row]]:
    """Rows of predicted runs, each with the effective rate at which its start meets the edge of stability."""
    recipe_of = {key(point.values): predict.nearest(point.recipe)[0] for point in points}
    tangent = tangent_of(case.model, task, reinit_groups, recipe_of.values())
    of_start = curvature(tangent, case.base)
    for rows in run_points(predict.dual(tangent, record_every=sizes.record_every), points):
        yield [schema.content(row) | {"edge": of_start.edge(recipe_of[key(row.values)])} for row in rows]


def predicted_by_features(
    case: Case, task: Task, reinit_groups: int, points: Sequence[Point], sizes: Sizes
) -> Iterator[list[Row]]:
    """Rows of runs predicted with the head exact, by the features' kernel along few directions."""
    tangent = predict.feature_tangent(start(case.model, task, reinit_groups), task, outputs="low-rank")
    for rows in run_points(predict.feature_dual(tangent, record_every=sizes.record_every), points):
        yield list(map(schema.content, rows))


ROWS: dict[By, Callable[..., Iterator[list[Row]]]] = {
    "real": really,
    "predicted": predicted_rows,
    "features": predicted_by_features,
}


def rows_in(lines: Path) -> dict[str, Row]:
    """The rows of a file, by their points."""
    return {key(row["values"]): row for row in json_lines.read(lines)}


def agreed(both: Sequence[tuple[Row, Row]]) -> agreement.SweepAgreement:
    """What `linft.workflows.sweep.agreement` finds between the two sides."""
    sides = [[schema.typed(pair[side], result.Row, "a row") for pair in both] for side in (0, 1)]
    return agreement.agreement(*sides)


def rows_of(case: Case, by: By, directory: Path, step: int, part: Part = "test") -> list[Row]:
    """The rows of a case as they are after so many steps."""
    return [after(row, step) for row in rows_in(place(case, by, directory, part)).values()]


def after(row: Row, step: int) -> Row:
    """The row of the run that ends at this step: at a constant rate it is the beginning of the longer one."""
    steps = row["curve"]["steps"]
    if row["diverged_at"] is not None and row["diverged_at"] <= step:
        return {**row, "status": "diverged", **dict.fromkeys(FINALS)}
    place = steps.index(step)
    return {**row, "status": "finished", **{name: row["curve"][name][place] for name in FINALS}}


def pairs(case: Case, directory: Path, step: int, part: Part = "test") -> list[tuple[Row, Row]]:
    """Predicted and real rows of the points that have both, after so many steps."""
    real = {key(row["values"]): row for row in rows_of(case, "real", directory, step, part)}
    found = [(row, real.get(key(row["values"]))) for row in rows_of(case, "predicted", directory, step, part)]
    return [(row, of) for row, of in found if of is not None]


def below(row: Row, share: float) -> bool:
    """Whether a predicted row's rate is below a share of the edge of stability."""
    return row["effective_rate"] <= share * row["edge"]


def cautious(both: Iterable[tuple[Row, Row]], steps: int) -> list[tuple[Row, Row]]:
    """Those whose rate is safe for so many steps (`linft.workflows.advise.rules.safe`)."""
    return [pair for pair in both if below(pair[0], safe(Initialization(), steps))]


@dataclass(frozen=True)
class Best:
    """The most accurate of some points, and of those with a safe rate the one predicted to be, as they are measured."""

    real: Row
    predicted: Row
    taken: Row
    """The real row of the point predicted to be best."""

    @property
    def regret(self) -> float:
        """Accuracy lost by taking the point predicted to be best; a run that diverged is as good as a guess at 0."""
        return self.real["test_accuracy"] - (self.taken["test_accuracy"] or 0.0)


def best(both: Iterable[tuple[Row, Row]], steps: int, held_out: Iterable[tuple[Row, Row]] | None = None) -> Best | None:
    """Of the points that ended; of equals the one of least loss; None where none did in truth or by prediction.

    Where no point has a rate that is safe for so many steps, the one of the smallest is taken.

    Args:
      held_out: the same points on the images on which they are chosen; without, on those where they are measured,
        which flatters the best of many.
    """
    measured = {key(pair[0]["values"]): pair for pair in both}
    both = list(measured.values() if held_out is None else held_out)

    def order(row: Row) -> tuple[float, float]:
        return -row["test_accuracy"], row["test_loss"]

    real = [pair for pair in both if pair[1]["status"] == "finished"]
    predicted_pairs = sorted(
        (pair for pair in both if pair[0]["status"] == "finished"), key=lambda p: p[0]["effective_rate"]
    )
    if not real or not predicted_pairs:
        return None
    chosen = min(real, key=lambda pair: order(pair[1]))
    predicted_best = min(cautious(predicted_pairs, steps) or predicted_pairs[:1], key=lambda pair: order(pair[0]))
    _, of_real = measured[key(chosen[0]["values"])]
    return Best(of_real, *measured[key(predicted_best[0]["values"])])
