"""The report of a comparison: figures, a table of every curve and one self-contained page."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from linft.workflows.compare.result import ComparisonResult


def write(result: "ComparisonResult", directory: str | Path) -> Path:
    """Write `report.html`, `trajectories.csv` and `figures/` of a comparison.

    Everything is a pure function of the result: the same one gives the same bytes.

    Args:
      result: what `linft.compare` found, or `read` of the `result.json` that it wrote.
      directory: where to write; it is made where it does not exist.

    Returns:
      The path of `report.html`.
    """
    from linft.report import page  # loads matplotlib, so only when there is something to draw

    return page.write(result, Path(directory))


def read(file: str | Path) -> "ComparisonResult":
    """The result of a comparison, from the `result.json` that it wrote.

    Raises:
      LinftError: the file is no such, or of another version of linft.
    """
    from linft.runtime import schema
    from linft.workflows.compare.result import ComparisonResult

    return schema.read(Path(file), ComparisonResult)
