"""Sweeps in this process: many points at a time where a Run replays them together, else one after another."""

from collections.abc import Callable, Iterator, Sequence

from linft import predict
from linft.core.base import OneByOne, Run
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.workflows.sweep import result
from linft.workflows.sweep.grid import Point
from linft.workflows.sweep.result import Row

TOGETHER = 256  # points replayed at a time: their coordinates need less memory than a kernel worth a sweep does

Nearest = Callable[[Recipe], tuple[Recipe, str]]
"""From a recipe to the nearest one that a run can take, and what was dropped ("" if nothing)."""


def as_it_is(recipe: Recipe) -> tuple[Recipe, str]:
    """The recipe itself."""
    return recipe, ""


def rows(run: Run, points: Sequence[Point], nearest: Nearest | None = None) -> Iterator[list[Row]]:
    """The rows of points, part by part as they are found; a point that the run refuses has a row that says why.

    Args:
      nearest: what a run takes of a recipe; by default that of `predict.nearest` where the run replays
        many recipes together, and the recipe itself elsewhere.
    """
    if isinstance(run, OneByOne):
        for point in points:
            yield [alone(run, point, nearest or as_it_is)]
        return
    for part in parts(points):
        near = [(nearest or predict.nearest)(point.recipe) for point in part]
        runs = run.many([recipe for recipe, _ in near])
        found = [result.row(point, of, note) for point, of, (_, note) in zip(part, runs, near, strict=True)]
        yield list({result.key(row["values"]): row for row in found}.values())


def alone(run: Run, point: Point, nearest: Nearest) -> Row:
    """The row of one point."""
    recipe, note = nearest(point.recipe)
    try:
        return result.row(point, run(recipe), note)
    except LinftError as error:
        return result.without_run(point, "refused", str(error))


def parts(points: Sequence[Point]) -> list[list[Point]]:
    """Points in as few parts as may be, of one size, so that one compiled program serves them all.

    The last part is filled up with its last point.
    """
    if not points:
        return []
    size = -(-len(points) // -(-len(points) // TOGETHER))
    found = [list(points[i : i + size]) for i in range(0, len(points), size)]
    return [part + part[-1:] * (size - len(part)) for part in found]
