"""What commands print: bars of progress, tables and lines, plain and unbroken where another program reads them."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich import box
from rich import progress as rich_progress
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from linft.runtime.progress import Progress

LINES = 20  # of a run or a kernel, where there is no terminal
PIPED_WIDTH = 240


def terminal(first: bool = True) -> Console:
    """Where a command prints, and linft logs what it does; of any but the first host only warnings."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout, force=True)
    logging.getLogger("linft").setLevel(logging.INFO if first else logging.WARNING)
    return Console(quiet=not first)


@contextmanager
def bars(console: Console) -> Iterator[Progress]:
    """A function (what, done, total) that moves the bar of that name."""
    if not console.is_terminal:
        yield lambda what, done, total: console.print(f"{what}: done") if done == total else None
        return
    columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with rich_progress.Progress(*columns, console=console) as progress:
        tasks = {}

        def move(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield move


@contextmanager
def counts(console: Console) -> Iterator[Progress]:
    """The same for what takes long: where there is no terminal, a line now and then."""
    if console.is_terminal:
        with bars(console) as move:
            yield move
        return
    last: dict[str, int] = {}

    def say(what: str, done: int, total: int) -> None:
        if done == total or done >= last.get(what, 0) + total / LINES:
            last[what] = done
            console.print(f"{what}: {done}/{total}", soft_wrap=True)

    yield say


@contextmanager
def steps_bar(console: Console, name: str, steps: int) -> Iterator[Callable[[int, Mapping[str, Any]], None]]:
    """A function (step, values) that shows loss, learning rate, images/s and the time left of a run."""

    def text(values: Mapping[str, Any]) -> str:
        return (
            f"loss {values['loss']:.4f}, learning rate {values['learning_rate']:.3g}, "
            f"{values['images_per_second']:.0f} images/s"
        )

    if not console.is_terminal:
        every, told = max(1, steps // LINES), [(0, time.perf_counter())]

        def say(step: int, values: Mapping[str, Any]) -> None:
            if "loss" in values and (step >= told[-1][0] + every or step == steps):
                told.append((step, time.perf_counter()))
                (before, at), (_, now) = told[-2:]
                left = (now - at) / max(step - before, 1) * (steps - step)
                console.print(f"{name}: step {step}/{steps}, {text(values)}, {left:.0f} s left", soft_wrap=True)

        yield say
        return
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=steps, text="")

        def show(step: int, values: Mapping[str, Any]) -> None:
            if "loss" in values:
                progress.update(task, completed=step, text=text(values))

        yield show


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
