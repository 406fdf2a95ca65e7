"""The report of a comparison: figures, a table of every curve and one self-contained page."""

from pathlib import Path
from typing import Any


def write(result: dict[str, Any], directory: str | Path) -> Path:
    """Write `report.html`, `trajectories.csv` and `figures/` from the content of a `result.json`.

    Everything is a pure function of the dictionary: the same one gives the same bytes.

    Args:
      result: the record of a comparison, of schema `linft-compare-1`.
      directory: where to write; it is made where it does not exist.

    Returns:
      The path of `report.html`.
    """
    from linft.report import page  # loads matplotlib, so only when there is something to draw

    return page.write(result, Path(directory))
