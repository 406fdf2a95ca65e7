"""What a sweep finds: a row a point, as JSON lines while it goes on, and one JSON file made of them at its end."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from linft.core.base import Certificate, Trajectory
from linft.core.layer_settings import LayerSettings
from linft.core.recipe import Recipe
from linft.core.trajectory_json import CURVES, saved
from linft.predict.sharpening import Edge
from linft.runtime import schema
from linft.runtime.json_files import read_json
from linft.runtime.schema import Number
from linft.runtime.versions import versions
from linft.workflows.sweep.grid import Point, Values

CONFIG, FILE = "config.json", "sweep.json"
CALLS = "calls.jsonl"
"""A line a call that ended: by what it ran, and its seconds."""
STATUSES = ("finished", "diverged", "pruned", "refused", "failed")
FINALS = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A run at its recorded steps."""

    steps: list[int]
    train_loss: list[Number]
    test_loss: list[Number]
    train_accuracy: list[Number]
    test_accuracy: list[Number]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is found at one point."""

    values: Values
    """What the point sets."""
    status: Literal["finished", "diverged", "pruned", "refused", "failed"]
    effective_rate: float
    """η/(1 − m)."""
    reason: str = ""
    """Why a point was refused, pruned or failed."""
    note: str = ""
    """What the run left out of the recipe."""
    train_loss: Number = None
    """At the end of a finished run, as all of these; None for any other."""
    test_loss: Number = None
    train_accuracy: Number = None
    test_accuracy: Number = None
    curve: Curve | None = None
    """Of a point that was run."""
    distance: dict[str, Number] = field(default_factory=dict)
    """‖w − w0‖ at the end of a finished run, by layer group."""
    seconds: float | None = None
    diverged_at: int | None = None
    certificate: Certificate | None = None
    """Of a prediction that tells how far it is to be trusted."""
    edge_on_path: Edge | None = None
    """Where it meets the edge of stability along the predicted path, where that was asked for."""

    @property
    def leaves(self) -> bool:
        """Whether its rate goes so far above the edge that its prediction is not to be compared with others."""
        return self.edge_on_path is not None and not self.edge_on_path.holds

    @property
    def accuracy(self) -> float:
        """The test accuracy; NaN where the run did not end."""
        return math.nan if self.test_accuracy is None else self.test_accuracy


def best_first(row: Row) -> tuple[bool, float, float]:
    """The order of finished rows: those that keep to the path, the greatest test accuracy, of equals the least loss."""
    return row.leaves, -row.accuracy, math.inf if row.test_loss is None else row.test_loss


class BeyondEdge(NamedTuple):
    """Of the rows whose edge on the path is known,"""

    known: int
    left: int
    """how many leave it,"""
    broken: int
    """and how many are expected to break."""


def beyond_edge(rows: Iterable[Row]) -> BeyondEdge:
    """How many rows go above the edge on the path."""
    edges = [row.edge_on_path for row in rows if row.edge_on_path]
    return BeyondEdge(len(edges), sum(not edge.holds for edge in edges), sum(edge.breaks for edge in edges))


def row(point: Point, run: Trajectory, note: str = "") -> Row:
    """The row of a point that was run."""
    found = saved(run)
    head = {"values": point.values, "effective_rate": _rate(point), "note": note or run.note, "seconds": run.seconds}
    head["certificate"] = run.certificate
    curve = Curve(**{name: getattr(found, name) for name in CURVES})
    if found.diverged_at is not None:
        return Row(**head, status="diverged", curve=curve, diverged_at=found.diverged_at)
    ends = {name: getattr(found, name)[-1] for name in FINALS}
    distance = {group: values[-1] for group, values in found.distance.items()}
    return Row(**head, status="finished", curve=curve, **ends, distance=distance)


def without_run(point: Point, status: Literal["pruned", "refused", "failed"], reason: str) -> Row:
    """The row of a point that has no trajectory."""
    return Row(values=point.values, status=status, effective_rate=_rate(point), reason=reason)


def _rate(point: Point) -> float:
    return point.recipe.learning_rate / (1 - point.recipe.momentum)


def dropped(rows: Iterable[Row]) -> list[str]:
    """What was left out of recipes, each once."""
    return list(dict.fromkeys(row.note for row in rows if row.note))


def key(values: Values) -> str:
    """A point's settings as one text, by which rows of several runs are matched.

    Example:
      >>> key({"momentum": 0.9, "learning_rate": 0.1})
      '{"learning_rate": 0.1, "momentum": 0.9}'
    """
    return json.dumps(values, sort_keys=True)


@dataclass(frozen=True)
class Sweep:
    """What a sweep found."""

    rows: list[Row]
    """One a point, in the order of the grid."""
    seconds: float
    """Wall time of the call, compilation included: less than all rows took where others, or an earlier call, helped."""
    start_seconds: float
    """Of it, what the runs took to be made; of a prediction from a kernel, the kernel."""

    @property
    def dropped(self) -> list[str]:
        """What was left out of recipes, each once."""
        return dropped(self.rows)

    def best(self, by: str = "test_accuracy") -> Row | None:
        """The finished point of greatest accuracy, or of least loss; the first of equals; None where none finished.

        One that leaves the path (`Row.edge_on_path`) only where all do.
        """
        finished = [row for row in self.rows if row.status == "finished"]
        sign = -1 if by.endswith("accuracy") else 1
        return min(finished, key=lambda row: (row.leaves, sign * getattr(row, by)), default=None)


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call that ended, as a line of calls.jsonl has it."""

    by: str
    seconds: float
    start_seconds: float


@dataclass(frozen=True, kw_only=True)
class SweepBy:
    """What all calls found by one kind of run."""

    dropped: list[str]
    seconds: float
    start_seconds: float
    rows: list[Row]


@dataclass(frozen=True, kw_only=True)
class GridTried:
    """The grid, as `Grid.as_json` has it."""

    name: str
    blocks: list[dict[str, str | list[Any]]]
    trials: int | None
    seed: int


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """All that is known of a directory's points."""

    schema: str = "linft-sweep-1"
    grid: GridTried
    recipe: Recipe
    """What the points vary."""
    depth: LayerSettings
    model: Any = None
    """What the caller said of it, as of the task."""
    task: Any = None
    sweeps: dict[str, SweepBy]
    """By what ran them."""
    versions: dict[str, str]


def rows_in(lines: Path) -> dict[str, Row]:
    """The rows of a file of JSON lines, by their points."""
    return {key(row.values): row for row in schema.read_rows(lines, Row)}


def publish(directory: Path, by: str, found: Sweep, points: Sequence[str]) -> None:
    """Add what a call found to the lines of a directory, and make sweep.json of them, with what other calls found.

    Of several workers that end at once none is lost: the lines are added to, and sweep.json is written again
    until it is that of the lines.

    Args:
      points: the grid's, which the rows are sorted by.
    """
    file = lines(directory, by)
    known = rows_in(file)  # where workers share points through a storage, others may have written to elsewhere
    schema.append(file, (row for row in found.rows if key(row.values) not in known))
    schema.append(directory / CALLS, [Call(by=by, seconds=found.seconds, start_seconds=found.start_seconds)])
    while True:
        content = _of_lines(directory, points)
        schema.write(directory / FILE, content)
        if _of_lines(directory, points) == content:
            return


def lines(directory: Path, by: str) -> Path:
    """Where the rows of a run are."""
    return directory / f"{by}.jsonl"


def _of_lines(directory: Path, points: Sequence[str]) -> SweepResult:
    calls = schema.read_rows(directory / CALLS, Call)
    sweeps = {}
    for by in dict.fromkeys(call.by for call in calls):
        found = rows_in(lines(directory, by))
        rows = [found[point] for point in dict.fromkeys((*points, *found)) if point in found]
        own = [call for call in calls if call.by == by]
        seconds, start_seconds = sum(call.seconds for call in own), sum(call.start_seconds for call in own)
        sweeps[by] = SweepBy(dropped=dropped(rows), seconds=seconds, start_seconds=start_seconds, rows=rows)
    config = read_json(directory / CONFIG) | {"schema": SweepResult.schema, "sweeps": {}, "versions": versions()}
    return replace(schema.typed(config, SweepResult, directory / CONFIG), sweeps=sweeps)
