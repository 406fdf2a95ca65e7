"""`sweep`: many recipes of one task by any Run, in this process or shared with others; rows are kept as they come."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from linft import predict
from linft.core.base import OneByOne, Run
from linft.core.errors import LinftError
from linft.core.layer_settings import LayerSettings
from linft.core.recipe import Recipe
from linft.predict.sharpening import Edge
from linft.runtime import schema
from linft.runtime.claims import claim
from linft.runtime.progress import Progress
from linft.workflows.sweep import result
from linft.workflows.sweep.grid import Point, Source, at, grid
from linft.workflows.sweep.result import Row, Sweep, key
from linft.workflows.sweep.shared import SharedSweep, Sharing

TOGETHER = 256  # points replayed at a time: their coordinates need less memory than a kernel worth a sweep does

MakeRun = Callable[[Point], Run]
"""From a point to the Run of its start: of as many new layer groups, and of its recipe's batch norm."""

FindEdge = Callable[[Point], Edge | None]
"""From a point to where it meets the edge of stability; None where that is not known."""

Start = tuple[int, str]
"""What points share that share a Run: new layer groups, and batch norm."""

Nearest = Callable[[Recipe], tuple[Recipe, str]]
"""From a recipe to the nearest one that a run can take, and what was dropped ("" if nothing)."""


def sweep(
    run: Run | MakeRun,
    of: Source,
    base: Recipe = Recipe(),
    *,
    layer_groups: Sequence[str] = (),
    depth: LayerSettings = LayerSettings(),
    nearest: Nearest | None = None,
    sharing: Sharing | None = None,
    output: str | Path | None = None,
    by: str = "run",
    described: Mapping[str, Any] | None = None,
    edge: FindEdge | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Run every point of a grid.

    Args:
      run: a Run, or where `reinit_groups` or `batch_norm` varies a function from a point to the Run of its start.
      of: the name of a paper's grid, a YAML file, a mapping from settings to values, or a list of them;
        or what `linft.workflows.sweep.grid.grid` makes of these, with the number of points to draw.
      base: all other settings.
      layer_groups: of the model, for settings by depth (`low_rate`, `l2sp_lowest` and others).
      depth: other settings by depth.
      nearest: what the run takes of a recipe; by default the nearest one that its kernel predicts where
        the run replays many recipes together, and the recipe itself elsewhere.
      sharing: a storage of Optuna, through which any number of workers share the points; each is run once.
      output: directory for config.json, one line a point in BY.jsonl, one a call in calls.jsonl, and sweep.json,
        which is made of these. A call that was interrupted goes on from there.
      by: what the run is called there; several may be kept beside one another.
      described: what is known of model and task, as JSON has it; an output directory of others is refused.
      edge: from a point to where it meets the edge of stability (`predict.sharpening`); of those that go far above it
        none is taken for the best.
      progress: called as points are done.

    Raises:
      LinftError: a grid, a point, a storage or an output directory that does not do.
      KeyboardInterrupt: when interrupted; what was found is kept, and a claimed point is given back.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(10, 10)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=2)
      >>> base = linft.Recipe(steps=4, batch_size=5)
      >>> found = sweep(linft.predict.dual(model, task), {"learning_rate": [0.01, 0.001], "momentum": [0, 0.9]}, base)
      >>> [row.values["momentum"] for row in found.rows], found.rows[1].status
      ([0.0, 0.9, 0.0, 0.9], 'finished')
    """
    begin = time.perf_counter()
    tell = progress or (lambda what, done, total: None)
    chosen = grid(of, len(layer_groups) or 5)
    resolve = partial(at, base=base, depth=depth, layer_groups=layer_groups)
    points = [] if sharing is not None and sharing.search == "tpe" else [resolve(v) for v in chosen.points()]
    if isinstance(run, Run) and len({point.reinit_groups for point in points}) > 1:
        raise LinftError("reinit_groups varies; in place of a Run give a function from a point to one")
    config = {"grid": chosen.as_json(), "recipe": asdict(base), "depth": asdict(depth), **(described or {})}
    lines = None
    if output is not None:
        claim(Path(output) / result.CONFIG, config, "results")
        lines = result.lines(Path(output), by)

    edges = {key(p.values): edge(p) for p in points} if edge else {}  # first of all: no prediction waits for them

    def judged(row: Row) -> Row:
        if edge is None or row.edge_on_path is not None or row.status in ("refused", "failed"):
            return row
        found = edges[key(row.values)] if key(row.values) in edges else edge(resolve(row.values))
        return replace(row, edge_on_path=found)

    def keep(rows: list[Row]) -> list[Row]:
        rows = list(map(judged, rows))
        if lines is not None:
            schema.append(lines, rows)
        return rows

    runs = Runs(run)
    if sharing is None:
        found = {} if lines is None else result.rows_in(lines)
        for rows in _here(runs, [p for p in points if key(p.values) not in found], nearest):
            found |= {key(row.values): row for row in keep(rows)}
            tell(by, sum(key(p.values) in found for p in points), len(points))
        every = [found[key(point.values)] for point in points]
    else:
        with SharedSweep.joined(sharing, study_name(by, sharing, config), chosen) as shared:
            for row in _together(shared, runs, resolve, nearest):
                keep([row])
                tell(by, shared.done(), shared.trials)
            every = list(map(judged, shared.rows(points)))
    swept = Sweep(every, time.perf_counter() - begin, runs.seconds)
    if output is not None:
        result.publish(Path(output), by, swept, [key(values) for values in chosen.points()])
    return swept


class Runs:
    """The Run of each start. Only the last is kept, since a prediction's holds a kernel."""

    def __init__(self, run: Run | MakeRun):
        self.run = run
        self.kept: tuple[Start, Run] | None = None
        self.seconds = 0.0

    def __call__(self, point: Point) -> Run:
        if isinstance(self.run, Run):
            return self.run
        if self.kept is None or self.kept[0] != start(point):
            self.kept = None
            begin = time.perf_counter()
            self.kept = start(point), self.run(point)
            self.seconds += time.perf_counter() - begin
        return self.kept[1]


def start(point: Point) -> Start:
    """Of a point."""
    return point.reinit_groups, point.recipe.batch_norm


def _here(runs: Runs, points: Sequence[Point], nearest: Nearest | None) -> Iterator[list[Row]]:
    for each in dict.fromkeys(map(start, points)):
        of_start = [point for point in points if start(point) == each]
        yield from run_points(runs(of_start[0]), of_start, nearest)


def _together(shared: SharedSweep, runs: Runs, resolve: Callable[..., Point], nearest: Nearest | None) -> Iterator[Row]:
    for held in shared.leases():
        point = resolve(held.values)
        row = shared.run(held, point, lambda point=point: run_point(runs(point), point, nearest or as_it_is))
        if row is not None:  # else others had taken the point meanwhile
            yield row


def as_it_is(recipe: Recipe) -> tuple[Recipe, str]:
    """The recipe itself."""
    return recipe, ""


def run_points(run: Run, points: Sequence[Point], nearest: Nearest | None = None) -> Iterator[list[Row]]:
    """The rows of points, part by part as they are found; a point that the run refuses has a row that says why.

    Args:
      run: one that replays many recipes together is given many points at a time.
      nearest: what a run takes of a recipe; by default that of `predict.nearest`, for the run's batch norm, where
        it replays many recipes together, and the recipe itself elsewhere.
    """
    if isinstance(run, OneByOne):
        for point in points:
            yield [run_point(run, point, nearest or as_it_is)]
        return
    nearest = nearest or partial(
        predict.nearest, batch_norm=getattr(run, "batch_norm", "frozen"), by=getattr(run, "by", "kernel")
    )
    for part in parts(points):
        near = [nearest(point.recipe) for point in part]
        runs = run.many([recipe for recipe, _ in near])
        found = [result.row(point, of, note) for point, of, (_, note) in zip(part, runs, near, strict=True)]
        yield list({key(row.values): row for row in found}.values())


def run_point(run: Run, point: Point, nearest: Nearest) -> Row:
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


def study_name(by: str, sharing: Sharing, config: Mapping[str, Any]) -> str:
    """What a sweep is called in a storage; any other sweep has another name."""
    text = json.dumps([sharing.search, sharing.watch is not None, config], sort_keys=True)
    return f"linft {by} {hashlib.sha256(text.encode()).hexdigest()[:16]}"
