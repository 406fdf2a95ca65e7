"""A zoo is a directory of our files; what is in it is told by their metadata and shapes, without reading weights."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linft.core import trees
from linft.core.errors import LinftError
from linft.models import registry
from linft.zoo.importers import native
from linft.zoo.tensors import Tensors, safetensors_file

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Entry:
    """A file of a zoo."""

    name: str
    path: Path
    bytes: int
    architecture: str = ""
    num_classes: int = 0
    data: str = ""
    """The source data set."""
    accuracy: float | None = None
    """On the source's test images, where it is known."""
    parameters: int = 0
    failed: str = ""
    """Why the file cannot be used; then the other fields are empty."""


def entries(zoo: Path) -> list[Entry]:
    """What a zoo holds, by name; files that cannot be used are among them, with the reason.

    Raises:
      LinftError: there is no such directory.

    Example:
      >>> from linft.zoo.load import SHIPPED
      >>> [entry.num_classes for entry in entries(SHIPPED) if entry.name == "resnet14-cifar10"]
      [10]
    """
    if not zoo.is_dir():
        raise LinftError(f"no zoo at {zoo}; make one by `linft zoo import` or `linft zoo add`")
    return [entry(path) for path in sorted(zoo.glob(f"*{SUFFIX}"))]


def entry(path: Path) -> Entry:
    """What the metadata and shapes of one file say."""
    name, size = path.name.removesuffix(SUFFIX), path.stat().st_size
    try:
        tensors, meta = opened(path)
        return Entry(
            name,
            path,
            size,
            architecture=meta["architecture"]["name"],
            num_classes=meta["num_classes"],
            data=str(meta["source"].get("data", "")),
            accuracy=meta["source"].get("test_accuracy"),
            parameters=sum(group_sizes(tensors, meta).values()),
        )
    except LinftError as error:
        return Entry(name, path, size, failed=str(error))


def opened(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors and the metadata of a file of ours."""
    tensors = safetensors_file(path)
    meta = native.metadata(tensors)
    if meta is None:
        raise LinftError(f"{path} has no metadata of ours; bring it into a zoo by `linft zoo import`")
    return tensors, meta


def group_sizes(tensors: Tensors, meta: dict[str, Any]) -> dict[str, int]:
    """Number of parameters of every stage."""
    groups = trees.stages(registry.layer_groups(*native.network(meta)))
    return {
        group: sum(
            math.prod(shape)
            for key, shape in tensors.shapes.items()
            if any(key.startswith(f"params/{prefix}/") for prefix in prefixes)
        )
        for group, prefixes in groups.items()
    }


def path_of(zoo: Path, name: str) -> Path:
    """Where a zoo keeps the model of a name."""
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise LinftError(f"{name!r} cannot be a model's name in a zoo; give one such as resnet18-birds")
    return zoo / f"{name}{SUFFIX}"


def existing(zoo: Path, name: str) -> Path:
    """The file of a name that must be there."""
    path = path_of(zoo, name)
    if not path.is_file():
        names = ", ".join(entry.name for entry in entries(zoo)) or "nothing"
        raise LinftError(f"no model {name!r} in {zoo}; it holds {names}")
    return path


def unused(zoo: Path, name: str) -> Path:
    """The file of a name that must not be there yet."""
    path = path_of(zoo, name)
    if path.exists():
        raise LinftError(f"{path} exists already; choose another --name, or delete it first")
    return path
