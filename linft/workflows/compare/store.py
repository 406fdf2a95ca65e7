"""What a comparison keeps on disk, so that an interrupted one goes on from what is finished."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from linft.core.base import Model, Tangent, Trajectory
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.core.trajectory_json import SavedTrajectory, restored, saved
from linft.predict.tangent import kept
from linft.runtime import schema
from linft.runtime.claims import claim
from linft.workflows.compare.drift import Drift

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A finished part, as runs/NAME.json holds it."""

    schema: str = "linft-run-2"
    run: SavedTrajectory
    drift: Drift | None
    """Of the kernel over the run, where its weights are known."""


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

    def run(self, name: str, make: Callable[[], tuple[Trajectory, Drift | None]]) -> tuple[Trajectory, Drift | None]:
        """A finished run on disk, or a new one that is kept; with how the kernel drifted, where that is known."""
        if self.directory is None:
            return make()
        file = self.directory / "runs" / f"{name}.json"
        if file.exists():
            found = schema.read(file, StoredRun)
            return restored(found.run), found.drift
        trajectory, drift = make()
        schema.write(file, StoredRun(run=saved(trajectory), drift=drift))
        return trajectory, drift

    def finish(self, result: T, file: str) -> T:
        """Keep the result in a file; it is given as it will be read from there."""
        if self.directory is not None:
            schema.write(self.directory / file, result)
        return schema.typed(schema.content(result), type(result), file)
