"""Tables and lines in the terminal, unbroken where another program reads them."""

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

PIPED_WIDTH = 240


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """A table whose columns of numbers are flush right."""
    console = Console()
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    table = Table(box=box.SIMPLE_HEAD)
    for name, *cells in zip(header, *rows, strict=True):
        table.add_column(name, justify="right" if all(map(_is_number, cells)) else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def print_lines(lines: Iterable[str]) -> None:
    """Plain text, a line as long as it is."""
    for line in lines:
        Console().print(line, markup=False, highlight=False, soft_wrap=True)


def _is_number(cell: str) -> bool:
    return not cell.strip("0123456789.,%")
