"""Progress bars, or plain lines where there is no terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import progress as rich_progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from linft.runtime.progress import Progress

LINES = 20  # of a run, where there is no terminal


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
def steps_bar(console: Console, name: str, steps: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A function (step, values) that shows loss, learning rate, images/s and the time left of a run."""

    def text(values: dict[str, float]) -> str:
        return (
            f"loss {values['loss']:.4f}, learning rate {values['learning_rate']:.3g}, "
            f"{values['images_per_second']:.0f} images/s"
        )

    if not console.is_terminal:
        every, told = max(1, steps // LINES), [(0, time.perf_counter())]

        def say(step: int, values: dict[str, float]) -> None:
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

        def show(step: int, values: dict[str, float]) -> None:
            if "loss" in values:
                progress.update(task, completed=step, text=text(values))

        yield show
