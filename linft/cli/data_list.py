"""`linft data list`: the papers' data sets, and which are on disk."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from linft.data.catalogue.table import DataSet

HEADER = ["name", "title", "classes", "train", "test", "split: train; test", "from", "on disk"]


@dataclass(frozen=True)
class DataList:
    """List the papers' data sets: classes, counts and splits as stated, where each comes from, whether it is on disk.

    One that is on disk is loaded as data:NAME. They are looked for in LINFT_DATA_DIR (by default
    ~/.cache/linft/data) and TFDS_DATA_DIR (by default ~/tensorflow_datasets).
    """

    def __call__(self) -> None:
        """Print the table, and under it what is to be known of single data sets."""
        from linft.cli.terminal import print_lines, print_table
        from linft.data.catalogue.table import CATALOGUE

        print_table(HEADER, [row(data) for data in CATALOGUE.values()])
        print_lines(map(remarks, CATALOGUE.values()))


def row(data: "DataSet") -> list[str]:
    """The cells of a data set; an empty one where the paper states no count."""
    from linft.data.catalogue.prepared import where

    counts = ["" if number is None else f"{number:,}" for number in (data.classes, data.train, data.test)]
    return [data.name, data.title, *counts, data.split, origin(data), "yes" if where(data) else "no"]


def origin(data: "DataSet") -> str:
    """The name in TFDS, the files of the official distribution that are read, or both."""
    return " or ".join(filter(None, [data.tfds and f"tfds:{data.tfds.name}", " ".join(data.archives)])) or "folders"


def remarks(data: "DataSet") -> str:
    """Who used the data set and who is to be cited, what a complete copy has, what else there is to know, and where."""
    from linft.data.catalogue.prepared import where

    found = "{:,} train and {:,} test images are found in it".format(*data.found) if data.found else ""
    place = f"on disk in {where(data)}" if where(data) else ""
    said = filter(None, [*data.papers, f"cite {data.citation}", found, data.note, place])
    return f"{data.name}: {'; '.join(said)}"
