"""A directory of checkpoints, each step a directory of its own.

Orbax writes a step beside its place and renames it once it is whole: `state`, the arrays as any Orbax
reader takes them, and `record`, the log with a checksum of every array. Arrays are copied to the host
before `save` returns, so the training step may donate its buffers.
"""

import json
import logging
import math
import os
import shutil
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from linft.core.errors import LinftError
from linft.core.trees import Tree
from linft.runtime.checkpoints import snapshot
from linft.runtime.checkpoints.quiet import quiet, reason
from linft.runtime.checkpoints.snapshot import Arrays, Kind

PARTIAL = ".orbax-checkpoint-tmp"  # Orbax's mark of a step that is not yet whole
ASIDE = ".unreadable"  # ours of one that is damaged
MARGIN = 2**20  # of free space, for what comes with the arrays

_log = logging.getLogger("linft")


def open(directory: str | Path, keep: int = 3) -> "Checkpoints":
    """Open a directory of checkpoints, which is made if need be, and clear it of half-written ones.

    Kept are the newest `keep` and the one with the greatest metric. Of several processes that train
    together, all open it and make the same calls; every array must be whole on each of them.

    Raises:
      LinftError: the directory cannot be made or written to, or keep is less than 1.

    Example:
      >>> import tempfile
      >>> with open(tempfile.mkdtemp()) as checkpoints:
      ...     checkpoints.save(7, {"w": np.arange(3)}, {"rows": [0.5]}, metric=0.9)
      ...     checkpoints.restore({"w": np.zeros(3, int)})
      (7, {'w': array([0, 1, 2])}, {'rows': [0.5]})
    """
    if keep < 1:
        raise LinftError(f"keep={keep} checkpoints; keep 1 or more")
    path = Path(directory).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LinftError(
            f"cannot make the directory of checkpoints {path} ({error.strerror}); choose another"
        ) from None
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise LinftError(f"cannot write checkpoints to {path} (no permission); choose another directory")
    import orbax.checkpoint as ocp  # here, since it takes half a second

    quiet()
    writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
    opened = Checkpoints(path, keep, writer)
    opened._clear()
    opened._metrics.update({step: opened._metric(step) for step in opened._on_disk()})
    return opened


@dataclass
class Checkpoints:
    """An open directory of checkpoints; close it by leaving its `with` block, which waits for the last write."""

    directory: Path
    keep: int
    _orbax: Any
    _metrics: dict[int, float | None] = field(default_factory=dict)  # of the steps that are whole
    _writing: tuple[int, float | None] | None = None
    _failing: bool = False
    _joined: bool = False  # whether what was found here is ours to go on from

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        self._orbax.close()

    def save(self, step: int, state: Tree, log: dict[str, Any], metric: float | None = None) -> None:
        """Write a checkpoint in the background, after waiting for the one before.

        The log is anything JSON can hold. A step that is there already is not written again. A full
        disk, or whatever else keeps it from being written, is a warning; the next one is tried again.

        Raises:
          LinftError: the directory held checkpoints when it was opened, and none was restored.
        """
        self.wait()
        if step in self._metrics and self._joined:
            return
        if self._metrics and not self._joined:
            raise LinftError(
                f"{self.directory} holds checkpoints of an earlier run, the newest of step {max(self._metrics)}; "
                "resume it, choose another directory or delete this one"
            )
        self._joined = True
        if metric is not None and not math.isfinite(metric):
            metric = None
        arrays = snapshot.take(state)
        record = {
            "step": step,
            "metric": metric,
            "log": json.loads(json.dumps(log)),  # a copy: the caller goes on appending to its own
            "arrays": {path: [*kind, snapshot.checksum(arrays[path])] for path, kind in snapshot.kinds(state).items()},
        }
        record["checksum"] = _checksum(record)
        arrays = {path: array for path, array in arrays.items() if array.size}  # Orbax refuses empty ones
        import orbax.checkpoint as ocp

        self._writing = step, metric
        try:
            self._check_room(sum(array.nbytes for array in arrays.values()))
            parts = ocp.args.Composite(state=ocp.args.PyTreeSave(arrays), record=ocp.args.JsonSave(record))
            self._orbax.save(self._path(step), args=parts)
        except Exception as error:  # of tensorstore, a ValueError; of the system, an OSError
            self._failed(error)

    def wait(self) -> None:
        """Wait until the checkpoint being written is whole, then delete those that are not to be kept."""
        if self._writing is None:
            return
        try:
            self._orbax.wait_until_finished()
        except Exception as error:
            self._failed(error)
            return
        step, metric = self._writing
        self._writing, self._failing = None, False
        self._metrics[step] = metric
        for old in set(self._metrics) - set(sorted(self._metrics)[-self.keep :]) - set(self._ranked()[:1]):
            del self._metrics[old]
            self._delete(self._path(old))

    def restore(self, like: Tree) -> tuple[int, Tree, dict[str, Any]] | None:
        """Step, state and log of the newest checkpoint that can be read whole, or None where there is none.

        The state has the structure of `like`, and each array the dtype, sharding and kind (JAX, numpy or
        Python number) of the leaf in its place. Damaged checkpoints are put aside, with a warning.

        Raises:
          LinftError: the checkpoints are of another model or recipe, or none of them can be read whole.
        """
        self.wait()
        self._joined = True
        return self._first_whole(sorted(self._metrics, reverse=True), like)

    def best(self, like: Tree) -> tuple[int, Tree, dict[str, Any]] | None:
        """As `restore`, of the checkpoint with the greatest metric; the first of equals."""
        self.wait()
        return self._first_whole(self._ranked(), like)

    def _first_whole(self, steps: list[int], like: Tree) -> tuple[int, Tree, dict[str, Any]] | None:
        damaged: dict[int, str] = {}
        for step in steps:
            try:
                arrays, log = self._read(step, like)
            except (LinftError, MemoryError):
                raise
            except Exception as error:  # damage shows itself as anything
                damaged[step] = reason(error)
                continue
            for other, why in damaged.items():
                self._put_aside(other)
                _log.warning(
                    "checkpoint %s cannot be read whole (%s); going back to step %d", self._path(other), why, step
                )
            return step, snapshot.put(arrays, like), log
        if not damaged:
            return None
        newest = max(damaged)
        raise LinftError(
            f"no checkpoint in {self.directory} can be read whole (step {newest}: {damaged[newest]}); "
            "delete the directory to start again, or bring it back from a copy"
        )

    def _read(self, step: int, like: Tree) -> tuple[Arrays, dict[str, Any]]:
        """The arrays by path and the log of one step, all checked."""
        import orbax.checkpoint as ocp

        record = self._record(step)
        found = {path: Kind(dtype, tuple(shape)) for path, (dtype, shape, _) in record["arrays"].items()}
        if difference := snapshot.difference(found, snapshot.kinds(like)):
            raise LinftError(
                f"{self.directory} holds checkpoints of another model or recipe: {difference}; "
                "choose another directory or delete this one"
            )
        full = [path for path, kind in found.items() if math.prod(kind.shape)]
        as_numpy = ocp.args.PyTreeRestore(
            dict.fromkeys(full, 0), restore_args=dict.fromkeys(full, ocp.RestoreArgs(restore_type=np.ndarray))
        )
        arrays = self._orbax.restore(self._path(step), args=ocp.args.Composite(state=as_numpy)).state
        for path in full:
            if snapshot.checksum(arrays[path]) != record["arrays"][path][2]:
                raise ValueError(f"{path} is garbled")
        return arrays, record["log"]

    def _record(self, step: int) -> dict[str, Any]:
        import orbax.checkpoint as ocp

        parts = ocp.args.Composite(record=ocp.args.JsonRestore())
        record = self._orbax.restore(self._path(step), args=parts).record
        if record.pop("checksum") != _checksum(record):
            raise ValueError("its record is garbled")
        return record

    def _metric(self, step: int) -> float | None:
        try:
            return self._record(step)["metric"]
        except Exception:  # damaged: restore will say so
            return None

    def _ranked(self) -> list[int]:
        """The steps that have a metric, the greatest first."""
        return sorted((s for s, m in self._metrics.items() if m is not None), key=lambda s: (-self._metrics[s], s))  # pyright: ignore

    def _path(self, step: int) -> Path:
        return self.directory / str(step)

    def _on_disk(self) -> Iterable[int]:
        return (int(entry.name) for entry in self.directory.iterdir() if entry.name.isdecimal() and entry.is_dir())

    def _check_room(self, size: int) -> None:
        """Refuse early what would not fit: one process only, since the others could not know."""
        free = shutil.disk_usage(self.directory).free
        if jax.process_count() == 1 and free < size + MARGIN:
            raise OSError(28, f"needs {(size + MARGIN) / 1e6:.1f} MB and {free / 1e6:.1f} MB are free")

    def _failed(self, error: Exception) -> None:
        assert self._writing is not None
        if not self._failing:  # once, not at every checkpoint while the disk is full
            _log.warning(
                "cannot write the checkpoint %s (%s); the run goes on, and the next one is tried again",
                self._path(self._writing[0]),
                reason(error),
            )
        self._writing, self._failing = None, True
        self._clear()

    def _clear(self) -> None:
        for partial in self.directory.glob(f"*{PARTIAL}*"):
            self._delete(partial)

    def _delete(self, path: Path) -> None:
        if jax.process_index() == 0:
            shutil.rmtree(path, ignore_errors=True)

    def _put_aside(self, step: int) -> None:
        """Out of the way of the run, which will come to this step again, but not lost."""
        del self._metrics[step]
        aside = self.directory / f"{step}{ASIDE}"
        self._delete(aside)
        if jax.process_index() == 0:
            self._path(step).rename(aside)


def _checksum(record: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(record).encode())
