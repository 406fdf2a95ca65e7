"""`linft data prepare`: checks a data set on disk against the catalogue, and makes it known by its name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class DataPrepare:
    """Check an unpacked archive against the catalogue and index it, so that data:NAME loads it; no image is copied."""

    name: tyro.conf.Positional[str]
    """Name of the data set, as `linft data list` has it."""
    source: Annotated[Path, tyro.conf.arg(name="from")]
    """Folder in which the official archives were unpacked, or where TFDS has prepared the data set."""
    to: Path | None = None
    """Folder of the index; by default NAME in LINFT_DATA_DIR (~/.cache/linft/data), where it is found by its name."""

    def __call__(self) -> None:
        """Prepare, and say where."""
        from linft.cli.terminal import print_lines
        from linft.data.catalogue.prepared import named, prepare

        data = named(self.name)
        index = prepare(data, self.source, self.to)
        counts = "{train} training and {test} test images".format(
            **{part: "all" if number is None else f"{number:,}" for part, number in data.expected.items()}
        )
        print_lines([f"{data.title}: {data.classes:,} classes, {counts}; the index is {index}"])
