"""What a comparison keeps on disk, so that an interrupted one goes on from what is finished."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linft.core.base import Model, Tangent, Trajectory
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.core.trajectory_json import trajectory_as_json, trajectory_from_json
from linft.predict.tangent import kept
from linft.runtime.claims import claim
from linft.runtime.json_files import finite, plain, read_json, write_json


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
            return trajectory_from_json(found["run"]), found["extra"]
        trajectory, extra = make()
        write_json(file, {"run": trajectory_as_json(trajectory), "extra": extra})
        return trajectory, extra

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Keep the result, as plain JSON."""
        result = finite(plain(result))
        if self.directory is not None:
            write_json(self.directory / "result.json", result)
        return result
