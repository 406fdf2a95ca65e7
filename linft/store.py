"""What a comparison keeps on disk, so that an interrupted one goes on from what is finished."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linft.base import Model, Tangent, Trajectory
from linft.errors import LinftError
from linft.predict.tangent import kept
from linft.recipe import Recipe
from linft.runtime.claims import claim
from linft.runtime.json_files import finite, plain, read_json, write_json
from linft.task import Task

CURVES = ("steps", "train_loss", "test_loss", "train_accuracy", "test_accuracy")
LENGTHS = ("distance", "norm")


@dataclass(frozen=True)
class Store:
    """A directory of finished parts, or none (directory None: nothing is kept)."""

    directory: Path | None

    @classmethod
    def open(
        cls, directory: str | Path | None, command: str, model: Model, task: Task, recipe: Recipe, options: dict
    ) -> "Store":
        """Make the directory, or continue in it where it holds the same.

        Args:
          command: what the directory is of, such as compare.
          options: what else the runs depend on.

        Raises:
          LinftError: it holds something else (naming what differs), or cannot be written.
        """
        if directory is None:
            return cls(None)
        path = Path(directory)
        try:
            (path / "runs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LinftError(f"cannot make the directory {path} ({error.strerror}); choose another") from None
        identity = {
            "command": command,
            "model": {"name": model.name, "digest": model.digest},
            "task": {"name": task.name, "digest": task.digest},
            "recipe": dataclasses.asdict(recipe),
            **options,
        }
        claim(path / "config.json", identity, "results")
        return cls(path)

    def tangent(self, make: Callable[[], Tangent]) -> Tangent:
        """The tangent on disk, or a new one that is kept."""
        return kept(None if self.directory is None else self.directory / "tangent.safetensors", make)

    def run(self, name: str, make: Callable[[], tuple[Trajectory, Any]]) -> tuple[Trajectory, Any]:
        """A finished run on disk, or a new one that is kept; with it whatever else was measured on it."""
        if self.directory is None:
            return make()
        file = self.directory / "runs" / f"{name}.json"
        if file.exists():
            found = read_json(file)
            return _from_json(found["run"]), found["extra"]
        trajectory, extra = make()
        write_json(file, {"run": self.as_json(trajectory), "extra": extra})
        return trajectory, extra

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Keep the result, as plain JSON."""
        result = finite(plain(result))
        if self.directory is not None:
            write_json(self.directory / "result.json", result)
        return result

    @staticmethod
    def as_json(run: Trajectory) -> dict[str, Any]:
        """A trajectory as the result file holds it."""
        return {
            **{name: getattr(run, name).tolist() for name in CURVES},
            **{name: {g: d.tolist() for g, d in getattr(run, name).items()} for name in LENGTHS},
            "seconds": run.seconds,
            "diverged_at": run.diverged_at,
            "note": run.note,
        }


def _from_json(found: dict[str, Any]) -> Trajectory:
    curves = {name: np.array(found[name]) for name in CURVES}
    lengths = {name: {g: np.array(d) for g, d in found[name].items()} for name in LENGTHS}
    rest = {name: found[name] for name in ("seconds", "diverged_at", "note")}
    return Trajectory(**curves, **lengths, **rest)
