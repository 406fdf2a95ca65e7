"""`linft zoo list`: what a zoo holds, or which architectures there are."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from linft.zoo.directory import Entry

MODELS = ["name", "architecture", "source data", "classes", "accuracy", "parameters", "MB"]
ARCHITECTURES = ["architecture", "input", "stages"]


@dataclass(frozen=True)
class ZooList:
    """List the models of a zoo: architecture, source data, classes, accuracy, size."""

    zoo: Path | None = None
    """Directory of the zoo; the one that comes with the package by default."""
    architectures: bool = False
    """List the architectures that a model can have instead."""

    def __call__(self) -> None:
        """Print the table, and under it the files that cannot be used, with the reason."""
        from linft.cli.terminal import print_lines, print_table

        if self.architectures:
            return print_table(ARCHITECTURES, architectures())
        from linft.zoo.directory import entries
        from linft.zoo.load import SHIPPED

        found = entries(self.zoo or SHIPPED)
        print_table(MODELS, [row(entry) for entry in found if not entry.failed])
        print_lines(f"{entry.name} failed: {entry.failed}" for entry in found if entry.failed)


def row(entry: "Entry") -> list[str]:
    """The cells of a model."""
    accuracy = "" if entry.accuracy is None else f"{entry.accuracy:.1%}"
    numbers = [str(entry.num_classes), accuracy, f"{entry.parameters:,}", f"{entry.bytes / 1e6:.2f}"]
    return [entry.name, entry.architecture, entry.data, *numbers]


def architectures() -> list[list[str]]:
    """The cells of every architecture of the registry."""
    from linft.core import trees
    from linft.models import registry

    return [
        [name, "×".join(map(str, row.preprocessing.input_size)), " ".join(trees.stages(groups))]
        for name, row in registry.ARCHITECTURES.items()
        for groups in [registry.layer_groups(name, {})]
    ]
