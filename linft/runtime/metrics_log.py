"""Where a run's numbers go while it runs: lines of JSON, a table, TensorBoard, Weights & Biases."""

import csv
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from linft.core.errors import LinftError
from linft.runtime import json_lines
from linft.runtime.atomic_files import whole

log = logging.getLogger("linft")

LINES, TABLE = "metrics.jsonl", "metrics.csv"
WANDB_RUN = "wandb-run.txt"  # the run's identity, so that a resumed run adds to it

Scalars = Mapping[str, int | float | None]
Track = Callable[[int, Mapping[str, Any]], None]
"""Called with (step, values by name): of the minibatches now and then, of both parts at recorded steps."""


@runtime_checkable
class Sink(Protocol):
    """Somewhere to write the numbers of a step to; `write` may raise OSError, which ends this sink only."""

    def write(self, step: int, values: Scalars) -> None: ...

    def close(self) -> None: ...


@contextmanager
def open(
    directory: Path | str,
    resume_from: int | None = None,
    sinks: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
) -> Iterator[Track]:
    """A function track(step, values) that writes a row to `metrics.jsonl`, `metrics.csv` and the sinks named.

    A row that `track` has written outlives the run, however that ends. Numbers that are not finite
    become null, or an empty cell. A run resumed from a step keeps the rows up to it and cuts the later
    ones, and the torn last one of a run that was killed, so that its files end up equal to those of a
    run that was never interrupted; any other run starts new files. A sink whose disk is full or gone is
    closed with a warning and the run goes on. `config` describes the run to the sinks that show it.

    Raises:
      LinftError: an unknown sink, one whose package is not installed, a directory that cannot be
        written to, or that has no files to resume from.

    Example:
      >>> import tempfile
      >>> directory = Path(tempfile.mkdtemp())
      >>> with open(directory) as track:
      ...     track(0, {"train_loss": 2.5})
      ...     track(0, {"test_accuracy": 0.25})
      >>> print((directory / "metrics.csv").read_text())
      step,train_loss,test_accuracy
      0,2.5,
      0,,0.25
    """
    directory = Path(directory)
    if unknown := sorted(set(sinks) - set(SINKS)):
        raise LinftError(f"no metric sink {', '.join(unknown)}; give some of {', '.join(SINKS)}")
    kept = [] if resume_from is None else [row for row in rows(directory) if row["step"] <= resume_from]
    opened: dict[str, Sink] = {LINES: _Lines(directory / LINES, kept), TABLE: _Table(directory / TABLE, kept)}

    def track(step: int, values: Mapping[str, Any]) -> None:
        plain = {name: _plain(value) for name, value in values.items()}
        for name, sink in list(opened.items()):
            try:
                sink.write(int(step), plain)
            except OSError as error:
                log.warning("no more metrics go to %s: %s; the run goes on", name, error.strerror or error)
                _close(opened.pop(name))

    try:
        for name in sinks:
            opened[name] = SINKS[name](directory, resume_from, dict(config or {}))
        yield track
    finally:
        for sink in opened.values():
            _close(sink)


def rows(directory: Path | str) -> list[dict[str, Any]]:
    """The rows of a run's `metrics.jsonl`, without one that was being written when the run was killed.

    Raises:
      LinftError: no such file, or one that cannot be read.
    """
    path = Path(directory) / LINES
    if not path.exists():
        raise LinftError(f"no metrics in {path}; start the run anew")
    return json_lines.read(path)


class _Lines:
    """One JSON object a line."""

    def __init__(self, path: Path, kept: Sequence[Scalars]) -> None:
        self._path = path
        with whole(path) as partial:
            json_lines.append(partial, kept)

    def write(self, step: int, values: Scalars) -> None:
        try:
            json_lines.append(self._path, [{"step": step, **values}])
        except LinftError as error:
            raise OSError(str(error)) from None

    def close(self) -> None:
        pass


class _Table:
    """Comma-separated, one column a name: a new name has the table written anew, as a whole, with a wider head."""

    def __init__(self, path: Path, kept: Sequence[Scalars]) -> None:
        self._path = path
        self._widen(list(dict.fromkeys(["step", *(name for row in kept for name in row)])), kept)

    def _widen(self, columns: Sequence[str], old: Sequence[Mapping[str, Any]]) -> None:
        with whole(self._path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(old)
        self._columns, self._file = columns, self._path.open("a", newline="")

    def write(self, step: int, values: Scalars) -> None:
        if new := [name for name in values if name not in self._columns]:
            self._file.close()
            with self._path.open(newline="") as file:
                old = list(csv.DictReader(file))
            try:
                self._widen([*self._columns, *new], old)
            except LinftError as error:
                raise OSError(str(error)) from None
        csv.DictWriter(self._file, self._columns, lineterminator="\n").writerow({"step": step, **values})
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _TensorBoard:
    """Event files in `tensorboard/`, which hides what a resumed run does again."""

    def __init__(self, directory: Path, resume_from: int | None, config: dict[str, Any]) -> None:
        from tensorboardX import SummaryWriter  # takes half a second

        purge = None if resume_from is None else resume_from + 1
        self._writer = SummaryWriter(str(directory / "tensorboard"), purge_step=purge)

    def write(self, step: int, values: Scalars) -> None:
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """A run in `wandb/`: on this machine only unless WANDB_MODE says otherwise; `wandb sync` sends it later."""

    def __init__(self, directory: Path, resume_from: int | None, config: dict[str, Any]) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise LinftError("Weights & Biases is not installed; pip install wandb, or leave the sink out") from None
        identity = directory / WANDB_RUN
        known = identity.read_text() if resume_from is not None and identity.is_file() else None
        mode: Any = os.environ.get("WANDB_MODE") or "offline"
        resume = "allow" if known else None
        try:
            self._run = wandb.init(dir=str(directory), mode=mode, config=config, id=known, resume=resume)
        except wandb.Error as error:
            raise LinftError(f"cannot start Weights & Biases ({error}); set WANDB_MODE=offline") from None
        identity.write_text(self._run.id)

    def write(self, step: int, values: Scalars) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


SINKS: dict[str, Callable[[Path, int | None, dict[str, Any]], Sink]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WeightsAndBiases,
}


def _plain(value: Any) -> int | float | None:
    """A number of Python, so that it can be written as JSON; none where it is not finite."""
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None


def _close(sink: Sink) -> None:
    with suppress(OSError):  # what a full disk has kept back
        sink.close()
