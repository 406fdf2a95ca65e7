"""Rows of an experiment, each written as it is found, so that an interrupted call goes on from there."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from linft.runtime import json_lines
from linft.runtime.claims import claim


def missing_rows(
    directory: Path, config: Any, measure: Callable[[set[str]], Iterator[dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    """The rows that rows.jsonl does not have yet, once they are in it.

    Args:
      config: a dataclass; a directory of another one is refused.
      measure: from the keys of the rows that are done to the others.
    """
    claim(directory / "config.json", asdict(config), "rows")
    file = directory / "rows.jsonl"
    for row in measure({row["key"] for row in json_lines.read(file)}):
        json_lines.append(file, [row])
        yield row
