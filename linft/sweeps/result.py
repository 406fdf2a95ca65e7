"""What a sweep finds: a row a point, as JSON lines while it goes on and one JSON file at its end."""

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linft.base import Trajectory
from linft.errors import LinftError
from linft.store import CURVES, Store, finite, read_json, versions
from linft.sweeps.grid import Point, Values

SCHEMA = "linft-sweep-1"
CONFIG, FILE = "config.json", "sweep.json"
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
        return list(dict.fromkeys(row["note"] for row in self.rows if row.get("note")))

    def best(self, by: str = "test_accuracy") -> Row | None:
        """The finished point of greatest accuracy, or of least loss; the first of equals; None where none finished."""
        finished = [row for row in self.rows if row["status"] == "finished"]
        sign = -1 if by.endswith("accuracy") else 1
        return min(finished, key=lambda row: sign * row[by], default=None)


class Lines:
    """A file of JSON lines, to which rows are added as they come; a line that was cut off is passed over."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> dict[str, Row]:
        """The rows so far, by their points."""
        found = {}
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:  # the process was killed while it wrote
                continue
            found[key(row["values"])] = row
        return found

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows, each in one write, so that processes may share the file.

        Raises:
          LinftError: the disk is full, or the file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab+", buffering=0) as file:
                if file.tell() and self._cut(file):
                    file.write(b"\n")
                for row in rows:
                    file.write((json.dumps(finite(row), ensure_ascii=False) + "\n").encode())
        except OSError as error:
            raise LinftError(
                f"cannot write {self.path} ({error.strerror}); free some space or choose another"
            ) from None

    @staticmethod
    def _cut(file: Any) -> bool:
        file.seek(-1, 2)
        return file.read(1) != b"\n"


def claim(directory: Path, config: Mapping[str, Any]) -> None:
    """Write what a directory's results are of, or find the same there.

    Raises:
      LinftError: it holds those of something else (naming what differs), or cannot be written.
    """
    path, config = directory / CONFIG, json.loads(json.dumps(config))
    if path.exists():
        before = read_json(path)
        differing = [name for name in {**before, **config} if before.get(name) != config.get(name)]
        if differing:
            raise LinftError(
                f"{directory} holds results of another {', '.join(differing)}; "
                "choose another output directory or delete this one"
            )
    else:
        replace(path, config)


def publish(directory: Path, by: str, found: Sweep) -> dict[str, Any]:
    """Put what a sweep found into sweep.json beside what other runs found there; the content of that file."""
    path = directory / FILE
    sweeps = read_json(path)["sweeps"] if path.exists() else {}
    before = sweeps.get(by, {"seconds": 0.0, "start_seconds": 0.0})
    seconds = {name: before[name] + getattr(found, name) for name in ("seconds", "start_seconds")}
    sweeps[by] = {"dropped": found.dropped, **seconds, "rows": found.rows}
    content = {"schema": SCHEMA, **read_json(directory / CONFIG), "sweeps": sweeps, "versions": versions()}
    replace(path, content)
    return content


def replace(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole, though several workers may do so at once."""
    own = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    Store(path.parent).write(own.name, dict(content))
    own.replace(path)
