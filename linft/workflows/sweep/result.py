"""What a sweep finds: a row a point, as JSON lines while it goes on, and one JSON file made of them at its end."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linft.core.base import Trajectory
from linft.core.trajectory_json import CURVES
from linft.runtime import json_lines
from linft.runtime.json_files import read_json, write_json
from linft.runtime.versions import versions
from linft.workflows.sweep.grid import Point, Values

SCHEMA = "linft-sweep-1"
CONFIG, FILE = "config.json", "sweep.json"
CALLS = "calls.jsonl"
"""A line a call that ended: by what it ran, and its seconds."""
STATUSES = ("finished", "diverged", "pruned", "refused", "failed")
FINALS = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")

Row = dict[str, Any]
"""What is found at one point.

| key | value |
| --- | --- |
| values | what the point sets |
| status | finished, diverged, pruned, refused or failed |
| reason | why a point was refused, pruned or failed |
| note | what the run left out of the recipe |
| effective_rate | η/(1 − m) |
| train_loss, test_loss, train_accuracy, test_accuracy | at the end of a finished run; null for any other |
| curve | the same at the recorded steps, with steps |
| distance | ‖w − w0‖ at the end of a finished run, by layer group |
| seconds, diverged_at | of the run |
"""


def row(point: Point, run: Trajectory, note: str = "") -> Row:
    """The row of a point that was run."""
    finished = run.diverged_at is None
    return {
        **_head(point, "finished" if finished else "diverged"),
        "note": note or run.note,
        **{name: float(getattr(run, name)[-1]) if finished else None for name in FINALS},
        "curve": {name: getattr(run, name).tolist() for name in CURVES},
        "distance": {group: float(values[-1]) for group, values in run.distance.items()} if finished else {},
        "seconds": run.seconds,
        "diverged_at": run.diverged_at,
    }


def without_run(point: Point, status: str, reason: str) -> Row:
    """The row of a point that has no trajectory."""
    return {**_head(point, status), "reason": reason, **dict.fromkeys(FINALS)}


def _head(point: Point, status: str) -> Row:
    rate = point.recipe.learning_rate / (1 - point.recipe.momentum)
    return {"values": point.values, "status": status, "effective_rate": rate}


def dropped(rows: Iterable[Row]) -> list[str]:
    """What was left out of recipes, each once."""
    return list(dict.fromkeys(row["note"] for row in rows if row.get("note")))


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
        """The finished point of greatest accuracy, or of least loss; the first of equals; None where none finished."""
        finished = [row for row in self.rows if row["status"] == "finished"]
        sign = -1 if by.endswith("accuracy") else 1
        return min(finished, key=lambda row: sign * row[by], default=None)


def rows_in(lines: Path) -> dict[str, Row]:
    """The rows of a file of JSON lines, by their points."""
    return {key(row["values"]): row for row in json_lines.read(lines)}


def publish(directory: Path, by: str, found: Sweep, points: Sequence[str]) -> None:
    """Add what a call found to the lines of a directory, and make sweep.json of them, with what other calls found.

    Of several workers that end at once none is lost: the lines are added to, and sweep.json is written again
    until it is that of the lines.

    Args:
      points: the grid's, which the rows are sorted by.
    """
    file = lines(directory, by)
    known = rows_in(file)  # where workers share points through a storage, others may have written to elsewhere
    json_lines.append(file, (row for row in found.rows if key(row["values"]) not in known))
    json_lines.append(directory / CALLS, [{"by": by, "seconds": found.seconds, "start_seconds": found.start_seconds}])
    while True:
        content = _of_lines(directory, points)
        write_json(directory / FILE, content)
        if _of_lines(directory, points) == content:
            return


def lines(directory: Path, by: str) -> Path:
    """Where the rows of a run are."""
    return directory / f"{by}.jsonl"


def _of_lines(directory: Path, points: Sequence[str]) -> dict[str, Any]:
    calls = json_lines.read(directory / CALLS)
    sweeps = {}
    for by in dict.fromkeys(call["by"] for call in calls):
        found = rows_in(lines(directory, by))
        rows = [found[point] for point in dict.fromkeys((*points, *found)) if point in found]
        seconds = {name: sum(c[name] for c in calls if c["by"] == by) for name in ("seconds", "start_seconds")}
        sweeps[by] = {"dropped": dropped(rows), **seconds, "rows": rows}
    return {"schema": SCHEMA, **read_json(directory / CONFIG), "sweeps": sweeps, "versions": versions()}
