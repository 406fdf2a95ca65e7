"""Which runs break? Foreseen by how the loss sharpens along the predicted path.

    python experiments/sweep_truth.py --scale laptop --data ../shared/data
    python experiments/breaks.py --scale laptop --data ../shared/data

The 140 real runs of sweep_truth with frozen batch norm, from a fresh head, 120 steps on four tasks, and 105 by the same
35 recipes on three others, which are reported apart: the form of the rule and its threshold were chosen on the four
before any run of the three. A run broke if it diverged, or its train loss fell by less than half of what the network's
kernel predicted. For each task one kernel, of the features with the head exact, gives a path, and the network's
curvature at six places of it (`linft.predict.sharpening`); all recipes of the task are judged by that. Rows are in
results/breaks/SCALE; writes table.md and figure.svg there. Tasks may run at once: `--tasks mnist --do run`, then
`--do report`.

Expected: on the four 28 of 32 that broke are foreseen, with 5 false alarms of 108; on the three 15 of 27, with 3 of 78.
"""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import sweep_truth
import tyro
from matplotlib.figure import Figure
from missing_rows import missing_rows
from options import Options
from paired_rows import Case, Row, carry_out, cautious, pairs
from starts import FAR, NEAR, SIZES, SOURCE, Sizes, start, task_of
from tables import markdown, share

from linft import predict
from linft.core.layer_settings import LayerSettings
from linft.predict.sharpening import BREAKS, HOLDS, Edge, Sharpening, layers_of
from linft.runtime import json_lines
from linft.workflows.sweep.grid import at

CHOSEN_ON = (*NEAR, *FAR)
APART = ("fashion", "imagenet_coarse", "mnist")
KINDS = {"broke": "#d55e00", "did not": "#0072b2"}
NUMBERS = ("way", "train_loss", "lambda_max")
LIMITS = (1.0, HOLDS, BREAKS, np.inf)

Both = list[tuple[Row, Row]]
"""Predicted and real rows."""
Known = tuple[Case, Path, Sharpening, int]


@dataclass(frozen=True)
class Config:
    """Of the paths."""

    tasks: tuple[str, ...] = (*CHOSEN_ON, *APART)
    model: str = SOURCE
    at: str = "features"


@dataclass(frozen=True)
class Judged:
    """A real run, and what was said of it."""

    task: str
    broke: bool
    edge: Edge
    diverges: bool
    """Whether the network's kernel at the start predicts so."""


def cases(sizes: Sizes) -> list[Case]:
    """What is run here: as the runs of sweep_truth with frozen batch norm, on other tasks."""
    return [Case(task, "frozen", sweep_truth.GRID, sizes.recipe()) for task in APART]


def main(options: Options) -> None:
    """Run what is missing, then write the table and the figure."""
    directory, sizes = options.directory("breaks"), SIZES[options.scale]
    tasks = options.chosen(Config().tasks)
    own = replace(options, tasks=tuple(task for task in tasks if task in APART))
    carry_out([case for case in cases(sizes) if case.task in tasks], directory, own)
    if "run" in options.do:
        for row in missing_rows(directory, Config(), partial(paths, options, sizes)):
            print(row["key"], row["lambda_max"], flush=True)
    if "report" in options.do:
        known = list(with_path(directory, options.directory("sweep_truth"), sizes))
        long = [(case, path, n, pairs(case, where, sizes.long)) for case, where, path, n in known]
        found = [_judged(case, path, n, *pair) for case, path, n, both in long for pair in both]
        (directory / "table.md").write_text("\n".join([table(found), picks(known, sizes)]))
        figure(found).savefig(directory / "figure.svg", metadata={"Date": None})
        print(f"{len(found)} runs; wrote {directory}/table.md and {directory}/figure.svg")


def paths(options: Options, sizes: Sizes, done: set[str]) -> Iterator[Row]:
    """How the loss sharpens, for every task that is missing."""
    for name in options.chosen(Config().tasks):
        if name not in done:
            task = task_of(name, options)
            begin = time.perf_counter()
            found = predict.sharpening(start(SOURCE, task), task, sizes.recipe())
            numbers = {key: getattr(found, key) for key in NUMBERS}
            yield {"key": name, "n": len(task.y_train), **numbers, "seconds": time.perf_counter() - begin}


def with_path(directory: Path, truth: Path, sizes: Sizes) -> Iterator[Known]:
    """Every case whose path is known, where its rows are, the path, and how many images are trained on."""
    of_task = {row["key"]: row for row in json_lines.read(directory / "rows.jsonl")}
    frozen = [(case, truth) for case in sweep_truth.cases(sizes) if case.name == "frozen"]
    for case, where in (*frozen, *((case, directory) for case in cases(sizes))):
        row = of_task.get(case.task)
        if row is not None:
            way, train_loss, lambda_max = (tuple(row[key]) for key in NUMBERS)
            path = Sharpening(way=way, train_loss=train_loss, lambda_max=lambda_max, layers=layers_of(case.base))
            yield case, where, path, row["n"]


def _judged(case: Case, path: Sharpening, n: int, predicted: Row, real: Row) -> Judged:
    recipe = at(predicted["values"], case.base, LayerSettings(), ()).recipe
    broke, diverges = sweep_truth.broke(predicted, real), predicted["status"] == "diverged"
    return Judged(case.task, broke, path.edge(recipe, n), diverges)


def table(found: list[Judged]) -> str:
    """What was foreseen of every task, of those on which the rule was made, and of the others."""
    rows = []
    for name, tasks in (*((task, (task,)) for task in Config().tasks), ("the four", CHOSEN_ON), ("apart", APART)):
        own = [run for run in found if run.task in tasks]
        broken, others = ([run for run in own if run.broke == broke] for broke in (True, False))
        if own:
            rows.append([
                name, len(own), len(broken), sum(run.edge.breaks for run in broken),
                sum(run.edge.breaks for run in others), sum(run.edge.step is not None for run in broken),
                sum(run.diverges for run in broken),
            ])  # fmt: skip
    heads = ["task", "runs", "broke", "foreseen", "false alarms", "met the edge", "foreseen at the start"]
    title = (
        f"Real runs that broke. Foreseen: those whose rate goes {BREAKS:g} times and more above the largest stable one "
        "along the predicted path; met the edge: those that broke and are said to go above it at all; foreseen at the "
        "start: those that diverge by the kernel there."
    )
    return markdown(title, heads, rows)


def picks(known: list[Known], sizes: Sizes) -> str:
    """What is lost by taking the point predicted to be best, among those up to a limit along the path."""
    rows, lost = [], {tasks: [] for tasks in (CHOSEN_ON, APART)}
    for (case, where, path, n), (budget, step) in itertools.product(known, sizes.budgets.items()):
        both = pairs(case, where, step)
        if both:
            best = max(real["test_accuracy"] or 0.0 for _, real in both)
            among = [cautious(both, step), *(_below(case, path, n, step, both, limit) for limit in LIMITS)]
            found = [_lost(best, of) for of in among]
            rows.append([case.task, budget, share(best), *map(share, found)])
            lost[APART if case.task in APART else CHOSEN_ON].append(found)
    for name, tasks in (("the four", CHOSEN_ON), ("apart", APART)):
        if lost[tasks]:
            rows.append([f"mean, {name}", "", "", *map(share, np.mean(lost[tasks], 0))])
    limits = [f"below {limit:g}" if np.isfinite(limit) else "all" for limit in LIMITS]
    title = (
        "Accuracy lost by taking the point that the network's kernel predicts to be best: among those that are safe by "
        "the start alone (`linft.workflows.advise.rules.safe`), and among those whose rate stays below so many times "
        "the largest stable one along the predicted path."
    )
    return markdown(title, ["task", "budget", "best", "safe at the start", *limits], rows)


def _below(case: Case, path: Sharpening, n: int, step: int, both: Both, limit: float) -> Both:
    def overshoot(predicted: Row) -> float:
        recipe = at(predicted["values"], case.base, LayerSettings(), ()).recipe
        return path.edge(recipe.replace(steps=step), n).overshoot

    return [pair for pair in both if overshoot(pair[0]) < limit]


def _lost(best: float, both: Both) -> float:
    """Where nothing is left to choose from, all of it."""
    order = lambda pair: (-pair[0]["test_accuracy"], pair[0]["test_loss"])  # noqa: E731
    pick = min((pair for pair in both if pair[0]["status"] == "finished"), key=order, default=None)
    return best - ((pick[1]["test_accuracy"] or 0.0) if pick else 0.0)


def figure(found: list[Judged]) -> Figure:
    """How far every rate goes above the largest stable one, by task, and what became of the run."""
    matplotlib.rcParams.update({"font.size": 8, "svg.hashsalt": "linft", "svg.fonttype": "none"})
    drawing = Figure(figsize=(6.4, 3.0), layout="constrained")
    ax: Any = drawing.subplots()
    tasks = list(dict.fromkeys(run.task for run in found))
    for kind, colour in KINDS.items():
        own = [run for run in found if run.broke == (kind == "broke")]
        shift = 0.12 if kind == "broke" else -0.12
        ax.plot([run.edge.overshoot for run in own], [tasks.index(run.task) + shift for run in own], "o", color=colour,
                markersize=4, alpha=0.6, markeredgewidth=0, label=kind)  # fmt: skip
    ax.axvline(1, color="#999999", linewidth=0.8)
    ax.axvline(BREAKS, color="#d55e00", linewidth=0.8)
    ax.set_xscale("log")
    ax.set_xlabel("rate over the largest stable one, at most, along the predicted path")
    ax.set_yticks(range(len(tasks)), [f"{task}, apart" if task in APART else task for task in tasks])
    drawing.legend(loc="outside lower center", ncols=2, frameon=False)
    return drawing


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
