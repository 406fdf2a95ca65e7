"""How often does the advice beat the default recipe, and a real search of equal cost?

    python experiments/advice.py --scale laptop --data ../shared/data

Five tasks × two budgets of steps, 128 training images, resnet14-cifar10. Three recipes are really trained on all
training images and tested on at most 200 test images, equally many of each class: the advised one; the default one
(`linft.workflows.advise.DEFAULT`, cosine schedule); and the best of a random search that may cost what the advice
cost: random points (learning rate 0.001 to 0.3 in the logarithm, momentum 0 or 0.9, weight decay 0, 0.0001 or 0.01,
new groups 1 or 2) are trained on four fifths of the training images for the same steps and judged on the fifth, as
many as begin within the seconds that the advice took, three at least. Seconds are wall time of the same process, one
CPU with two cores, all compilation included in both. Rows are in results/advice/SCALE/rows.jsonl, written as they
come; writes table.md there. Tasks may run at once: `--tasks digits --do run`, then `--do report`.

Expected: better than the default recipe in 4 of 10, where that breaks by much, else up to 19 points worse; better than
the search in all.
"""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from options import Options
from starts import FAR, NEAR, SOURCE, loaded, start, task_of
from tables import markdown, settings, share

import linft
from linft.core.base import Task
from linft.core.layer_settings import LayerSettings
from linft.runtime import json_lines
from linft.workflows.advise import DEFAULT
from linft.workflows.sweep.grid import Point, at, grid
from linft.workflows.sweep.result import Row, row

TASKS = (*NEAR, *FAR, "fashion")
BUDGETS = {"smoke": (2,), "laptop": (40, 120)}
SPACE = {
    "learning_rate": "log:0.001:0.3",
    "momentum": [0.0, 0.9],
    "weight_decay": [0.0, 1e-4, 1e-2],
    "reinit_groups": [1, 2],
}
FEWEST, MOST = 3, 30
"""Points of the search."""
HELD_OUT = 0.2


def main(options: Options) -> None:
    """Run what is missing, then write the table."""
    directory = options.directory("advice")
    file = directory / "rows.jsonl"
    if "run" in options.do:
        done = {(found["task"], found["steps"]) for found in json_lines.read(file)}
        for name, budget in [(name, steps) for name in options.chosen(TASKS) for steps in BUDGETS[options.scale]]:
            if (name, budget) not in done:
                found = compared(task_of(name, options), budget)
                json_lines.append(file, [found])
                print(f"{name}, {budget} steps: {found['accuracy']}", flush=True)
    if "report" in options.do:
        write_report(directory)


def write_report(directory: Path) -> None:
    """The table of the rows so far."""
    rows = sorted(json_lines.read(directory / "rows.jsonl"), key=lambda of: (TASKS.index(of["task"]), of["steps"]))
    (directory / "table.md").write_text(table(rows))
    print(f"wrote {directory}/table.md")


def compared(task: Task, budget: int) -> dict[str, Any]:
    """The advised recipe, the default one and the searched one, really trained."""
    begin = time.perf_counter()
    advice = linft.advise(loaded(SOURCE), task, budget)
    seconds = time.perf_counter() - begin
    base = DEFAULT.replace(steps=budget)
    begin = time.perf_counter()
    searched, tried = search(task, base, seconds)
    searching = time.perf_counter() - begin
    points = {
        "advised": Point(advice.values, advice.recipe, advice.reinit_groups),
        "default": Point({}, base, 1),
        "searched": searched,
    }
    runs = {name: trained(task, point) for name, point in points.items()}
    return {
        "task": task.name,
        "steps": budget,
        "seconds": {"advised": seconds, "searched": searching},
        "tried": tried,
        "accuracy": {name: run.test_accuracy for name, run in runs.items()},
        "status": {name: run.status for name, run in runs.items()},
        "predicted": asdict(advice.certainty),
        "similarity": advice.measures.similarity,
        "values": {name: point.values for name, point in points.items()},
    }


def search(task: Task, base: linft.Recipe, seconds: float) -> tuple[Point, int]:
    """The best point of a random search on held-out training images, and how many were tried."""
    inner = task.holdout(HELD_OUT, seed=0)
    drawn = grid(SPACE, trials=MOST, seed=0).points()
    begin, best, tried = time.perf_counter(), (-1.0, 0.0), 0
    chosen = at(drawn[0], base, LayerSettings(), tuple(loaded(SOURCE).layer_groups))
    for values in drawn:
        if tried >= FEWEST and time.perf_counter() - begin > seconds:
            break
        point = at(values, base, LayerSettings(), tuple(loaded(SOURCE).layer_groups))
        found, tried = trained(inner, point), tried + 1
        if found.status == "finished":
            order = (found.accuracy, -(found.test_loss or 0.0))
            if order > best:
                best, chosen = order, point
    return chosen, tried


def trained(task: Task, point: Point) -> Row:
    """A real run."""
    recipe = point.recipe
    run = linft.finetune(start(SOURCE, task, point.reinit_groups), task, record_every=recipe.steps)
    return row(point, run(recipe))


def table(rows: list[dict[str, Any]]) -> str:
    """Test accuracies, and who wins."""
    shown = ("reinit_groups", "learning_rate", "momentum", "l2sp", "weight_decay")
    body = []
    for of in rows:
        ends = [accuracy(of, name) for name in ("advised", "default", "searched")]
        expected, seconds = share(of["predicted"]["accuracy"]), f"{of['seconds']['advised']:.0f}"
        advised = settings(of["values"]["advised"], shown)
        body.append([of["task"], of["similarity"], of["steps"], *ends, expected, of["tried"], seconds, advised])
    heads = ["task", "is", "steps", "advised", "default", "searched", "predicted", "points searched", "seconds",
             "advised: new groups, rate, momentum, α, β"]  # fmt: skip
    sentences = [against(rows, name) for name in ("default", "searched")] if rows else []
    return markdown("Test accuracy.", heads, body) + "\n" + "\n".join(sentences) + "\n"


def accuracy(of: dict[str, Any], name: str) -> str:
    """In per cent, or that the run diverged."""
    return "diverged" if of["status"][name] == "diverged" else share(of["accuracy"][name])


def against(rows: list[dict[str, Any]], name: str) -> str:
    """How often the advice beats another recipe, and by how much; a run that diverged counts as accuracy 0."""
    gains = np.array([(of["accuracy"]["advised"] or 0.0) - (of["accuracy"][name] or 0.0) for of in rows])
    return (
        f"- Against the {name} recipe: better in {(gains > 0).sum()} of {len(gains)}, equal in {(gains == 0).sum()}; "
        f"by {100 * gains.mean():+.1f} points on average (median {100 * np.median(gains):+.1f}, "
        f"worst {100 * gains.min():+.1f}, best {100 * gains.max():+.1f})."
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
