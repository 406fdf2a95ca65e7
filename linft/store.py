"""What a comparison keeps on disk, so that an interrupted one goes on from what is finished."""

import dataclasses
import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from linft.base import Model, Tangent, Trajectory
from linft.errors import LinftError
from linft.files import whole
from linft.predict.tangent import kept
from linft.recipe import Recipe
from linft.task import Task

CURVES = ("steps", "train_loss", "test_loss", "train_accuracy", "test_accuracy")
LENGTHS = ("distance", "norm")


@dataclass(frozen=True)
class Store:
    """A directory of finished parts, or none (directory None: nothing is kept)."""

    directory: Path | None

    @classmethod
    def open(cls, directory: str | Path | None, model: Model, task: Task, recipe: Recipe, rest: dict) -> "Store":
        """Make the directory, or continue in it where it holds the same comparison.

        Raises:
          LinftError: it holds another comparison (naming what differs), or cannot be written.
        """
        if directory is None:
            return cls(None)
        config = {
            "model": {"name": model.name, "digest": digest((model.params, model.batch_stats))},
            "task": {"name": task.name, "digest": digest((task.x_train, task.y_train, task.x_test, task.y_test))},
            "recipe": json.loads(json.dumps(dataclasses.asdict(recipe))),
            **rest,
        }
        path = Path(directory)
        try:
            (path / "runs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LinftError(f"cannot make the directory {path} ({error.strerror}); choose another") from None
        store = cls(path)
        if (path / "config.json").exists():
            before = read_json(path / "config.json")
            differing = [key for key in config if before.get(key) != config[key]]
            if differing:
                raise LinftError(
                    f"{path} holds a comparison with another {', '.join(differing)}; "
                    "choose another output directory or delete this one"
                )
        store.write("config.json", config)
        return store

    def tangent(self, make: Callable[[], Tangent]) -> Tangent:
        """The tangent on disk, or a new one that is kept."""
        return kept(None if self.directory is None else self.directory / "tangent.safetensors", make)

    def run(self, name: str, make: Callable[[], tuple[Trajectory, Any]]) -> tuple[Trajectory, Any]:
        """A finished run on disk, or a new one that is kept; with it whatever else was measured on it."""
        if self.directory is None:
            return make()
        file = f"runs/{name}.json"
        if (self.directory / file).exists():
            found = read_json(self.directory / file)
            return _from_json(found["run"]), found["extra"]
        trajectory, extra = make()
        self.write(file, {"run": self.as_json(trajectory), "extra": extra})
        return trajectory, extra

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Keep the result, as plain JSON."""
        result = finite(json.loads(json.dumps(result)))
        if self.directory is not None:
            self.write("result.json", result)
        return result

    def write(self, file: str, content: dict[str, Any]) -> None:
        """Write one JSON file whole or not at all."""
        assert self.directory is not None
        with whole(self.directory / file) as partial:
            partial.write_text(json.dumps(finite(content), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

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


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LinftError(f"{path} is not readable JSON ({error}); delete it to compute it again") from None


def finite(value: Any) -> Any:
    """The same JSON with null for numbers that are not finite, which JSON does not know."""
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, (list, tuple)) else value


def digest(tree: Any) -> str:
    """A short hash of all arrays of a tree; leaves that have a digest of their own, as images in files, give that."""
    state = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        if hasattr(leaf, "digest"):
            state.update(leaf.digest.encode())
            continue
        array = np.ascontiguousarray(leaf)
        state.update(f"{array.dtype}{array.shape}".encode())
        state.update(array.tobytes())
    return state.hexdigest()[:16]


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    packages = ("linft", "jax", "jaxlib", "flax", "optax", "numpy")
    return {name: version(name) for name in packages} | {
        "python": platform.python_version(),
        "device": f"{jax.default_backend()}: {jax.devices()[0].device_kind}",
    }
