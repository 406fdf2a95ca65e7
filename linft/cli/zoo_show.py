"""`linft zoo show`: all that a zoo knows of one model."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro


@dataclass(frozen=True)
class ZooShow:
    """Show what a zoo knows of a model: stages, preprocessing, source, recipe, classes."""

    name: tyro.conf.Positional[str]
    """Name of the model in the zoo."""
    zoo: Path | None = None
    """Directory of the zoo; the one that comes with the package by default."""

    def __call__(self) -> None:
        """Print all, one fact a line."""
        from linft.cli.terminal import print_lines
        from linft.zoo.directory import existing
        from linft.zoo.load import SHIPPED

        print_lines(facts(existing(self.zoo or SHIPPED, self.name)))


def facts(path: Path) -> Iterator[str]:
    """What the file says, one fact a line, those that belong to another indented under it."""
    from linft.zoo.directory import group_sizes, opened
    from linft.zoo.importers.native import SOURCE

    tensors, meta = opened(path)
    groups = group_sizes(tensors, meta)
    means = tensors.shapes.get(f"{SOURCE}class_means")
    shown = {
        "name": meta["name"],
        "file": f"{path}, {path.stat().st_size / 1e6:.2f} MB",
        "architecture": meta["architecture"]["name"],
        "options": meta["architecture"]["options"],
        "classes": meta["num_classes"],
        "parameters": f"{sum(groups.values()):,}",
        "stages": {group: f"{size:,}" for group, size in groups.items()},
        "preprocessing": meta["preprocessing"],
        "source": meta["source"],
        "class means": f"{means[0]} classes, {means[1]} features" if means else "none",
    }
    return _lines(shown, "")


def _lines(values: dict[str, Any], indent: str) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:" if value else f"{indent}{key}: none"
            yield from _lines(value, indent + "  ")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            yield f"{indent}{key.replace('_', ' ')}: {text}"
