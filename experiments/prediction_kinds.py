"""Which prediction is worth its cost: error of the loss curve and of the final test accuracy, beside the seconds.

    python experiments/prediction_kinds.py --scale laptop --data ../shared/data

Four real tasks × two heads (fresh, linear probe) × two learning rates, frozen batch norm, cross-entropy: 16
real runs, each beside its prediction by every kind that `linft predict --how` knows, but for those whose kernel moves
(experiments/certificates.py). Seconds are of the processor,
without compilation; a kernel's are apart from those of a recipe, since one kernel serves any number of recipes.
Two kernels are computed on one task only (once.json), since they are known otherwise: the trace is that of the full
kernel, and the full kernel of the features, which costs the same on every task, gives the curve of the weights'
training with linear features, against which it is held there. Rows are written as they finish, and a call that was
interrupted goes on from there. Writes rows.jsonl, table.md and figure.svg into results/prediction_kinds/SCALE.
At laptop scale also linft/predict/measured.json: errors and costs, by which `linft advise` tells how sure it is.

Expected (results/prediction_kinds/laptop/table.md): with a fresh head every kind's median error of the loss curve
is 3 to 7 %, of which the tasks make more than the kinds do; at the smaller rate the features' full and low-rank kernels
err several times less than the network's, at the larger one more. With a probe head relinearizing errs 9 %, the
network's and the features' kernels 15 to 16 %, traces 21 to 25 %. None predicts the accuracy on 32 test images within
3 points. The number of steps to a given loss is off by 5 % (relinearized) to 50 % (trace), 16 % with the network's
kernel, which costs what one real run costs and a 350th of it for every further recipe.
"""

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import jax
import matplotlib
import numpy as np
import tyro
from clock import Clock
from matplotlib.figure import Figure
from missing_rows import missing_rows
from options import Options, Scale
from tables import spread

import linft
from linft import predict
from linft.core import trees
from linft.core.base import Model, Task, Trajectory
from linft.predict.choice import FALLS, FIRST, KINDS, MEASURED, Head, fall, first_steps
from linft.predict.tangent import to_trace
from linft.runtime import json_lines
from linft.workflows.compare.agreement import agreement

HEADS: dict[Literal["normal", "probe"], Head] = {"normal": "fresh", "probe": "probe"}
COLOURS = {
    "trace": "#999999",
    "dual": "#0072b2",
    "features-trace": "#e69f00",
    "features-low-rank": "#cc79a7",
    "relinearize": "#009e73",
    "features": "#d55e00",
}


@dataclass(frozen=True)
class Config:
    """Sizes of the experiment."""

    tasks: tuple[str, ...] = ("digits", "hymenoptera", "ucmerced16", "sign_digits")
    model: str = "resnet14-cifar10"
    train_images: int = 96
    test_images: int = 32
    rates: tuple[tuple[Literal["normal", "probe"], tuple[float, ...]], ...] = (
        ("normal", (0.01, 0.002)),
        ("probe", (0.002, 0.0005)),
    )
    """Of either head, the same number."""
    steps: int = 48
    batch_size: int = 32
    once: str = "hymenoptera"


CONFIGS: dict[Scale, Config] = {
    "smoke": Config(
        train_images=8, test_images=8, rates=(("normal", (0.01,)), ("probe", (0.001,))), steps=4, batch_size=4
    ),
    "laptop": Config(),
}


def main(options: Options) -> None:
    """Run what is missing, and draw the table and the figure."""
    directory, config = options.directory("prediction_kinds"), CONFIGS[options.scale]
    if "run" in options.do:
        run(config, options, directory)
    if "report" in options.do:
        report(directory, options.scale)


def run(config: Config, options: Options, directory: Path) -> None:
    """Write what is missing."""
    once, begin, clock = directory / "once.json", time.perf_counter(), Clock()
    for row in missing_rows(directory, config, partial(measure, config, options, clock=clock)):
        errors = {name: found["train_loss_error"] for name, found in row["kinds"].items()}
        print(f"{time.perf_counter() - begin:.0f} s, {row['key']}: {errors}", flush=True)
    if not once.exists():
        once.write_text(json.dumps(computed_once(config, options, clock), indent=1) + "\n")


def report(directory: Path, scale: Scale) -> None:
    """Write table and figure of the rows so far, and what `linft advise` goes by."""
    rows = finished(directory)
    (directory / "table.md").write_text(table(rows))
    figure(rows).savefig(directory / "figure.svg", metadata={"Date": None})
    if scale == "laptop":
        MEASURED.write_text(json.dumps(measured(rows), indent=1) + "\n")
    print(f"{len(rows)} rows; wrote {directory}/table.md and {directory}/figure.svg", flush=True)


def finished(directory: Path) -> list[dict[str, Any]]:
    """The rows, with what the kernels cost that were computed on one task."""
    rows = json_lines.read(directory / "rows.jsonl")
    seconds = json.loads((directory / "once.json").read_text())["seconds"]
    for row, kind in itertools.product(rows, seconds):
        row["kinds"][kind] |= seconds[kind]
    return rows


def computed_once(config: Config, options: Options, clock: Clock) -> dict[str, Any]:
    """What trace and full features' kernels cost, and how far the latter's curve is from the weights' training."""
    task = _task(config, options, config.once)
    (head, rates), *_ = config.rates
    model, recipe = _headed(linft.load_model(config.model), task, head), _recipe(config, rates[0])
    _, trace_seconds = clock(predict.tangent, model, task, outputs="trace")
    tangent, kernel_seconds = clock(predict.feature_tangent, model, task)
    found, recipe_seconds = clock(predict.feature_dual(tangent), recipe)
    trained = linft.finetune(linft.linearize(model, at="features"), task)(recipe)
    return {
        "task": config.once,
        "seconds": {
            "trace": {"kernel_seconds": trace_seconds},
            "features": {"kernel_seconds": kernel_seconds, "recipe_seconds": recipe_seconds},
        },
        "largest_difference": float(np.abs(found.train_loss - trained.train_loss).max()),
    }


def measure(config: Config, options: Options, done: set[str], clock: Clock) -> Iterator[dict[str, Any]]:
    """Real runs that are not done, every task's with the first rates before the next, and their predictions."""
    tasks, bare = options.chosen(config.tasks), linft.load_model(config.model)
    linear = linft.linearize(bare, at="features")  # whatever the head that is put on it

    @cache
    def of_any_head(name: str) -> tuple[Task, tuple[predict.FeatureTangent, float]]:
        task = _task(config, options, name)
        return task, clock(predict.feature_tangent, _headed(bare, task, "normal"), task, outputs="trace")

    @cache
    def of_head(name: str, head: Literal["normal", "probe"]) -> tuple[Model, dict[str, Any]]:
        task, (trace, seconds) = of_any_head(name)
        model = _headed(bare, task, head)
        return model, {
            "dual": clock(predict.tangent, model, task),
            "features-trace": (dataclasses.replace(trace, head=trees.get(model.params, model.head)), seconds),
            "features-low-rank": clock(predict.feature_tangent, model, task, outputs="low-rank"),
        }

    cases: list[tuple[str, str, Literal["normal", "probe"], float]] = [
        (f"{name} {head} {rates[place]}", name, head, rates[place])
        for place, name, (head, rates) in itertools.product(range(len(config.rates[0][1])), tasks, config.rates)
    ]
    for key, name, head, rate in cases:
        if key not in done:
            task, (model, kernels), recipe = of_any_head(name)[0], of_head(name, head), _recipe(config, rate)
            real, seconds = clock(linft.finetune(model, task), recipe)
            row = {"key": key, "task": name, "head": HEADS[head], "rate": rate}
            yield row | compared(model, linear, task, recipe, kernels, real, seconds, clock)


def _task(config: Config, options: Options, name: str) -> Task:
    return linft.load_task(options.source(name)).subset(config.train_images, config.test_images, seed=0)


def _recipe(config: Config, rate: float) -> linft.Recipe:
    return linft.Recipe(learning_rate=rate, batch_size=config.batch_size, steps=config.steps)


def _headed(model: Model, task: Task, head: Literal["normal", "probe"]) -> Model:
    return model.with_head(task.num_classes, jax.random.key(0), head, task=task)


def compared(
    model: Model,
    linear: Model,
    task: Task,
    recipe: linft.Recipe,
    kernels: dict[str, Any],
    real: Trajectory,
    seconds: float,
    clock: Clock,
) -> dict[str, Any]:
    """The real run, and every kind of prediction beside it."""
    runs: dict[str, Callable[[linft.Recipe], Trajectory]] = {
        "trace": predict.dual(to_trace(kernels["dual"][0])),
        "dual": predict.dual(kernels["dual"][0]),
        "features-trace": predict.feature_dual(kernels["features-trace"][0]),
        "features-low-rank": predict.feature_dual(kernels["features-low-rank"][0]),
        "relinearize": predict.relinearized(model, task, after=first_steps(recipe, len(task.y_train))),
        "features": linft.finetune(linear.replace(params=model.params), task),
    }
    predicted = {kind: clock(run, recipe) for kind, run in runs.items()}
    kinds = {
        kind: asdict(agreement(found, real))
        | {"kernel_seconds": kernels[kind][1] if kind in kernels else 0.0, "recipe_seconds": taken}
        | {"train_loss": found.train_loss.tolist()}
        for kind, (found, taken) in predicted.items()
    }
    return {
        "predicted_fall": fall(predicted[FIRST][0]),
        "probing_error": kernels["features-trace"][0].standard_error,
        "real_seconds": seconds,
        "features_by_weights_seconds": predicted["features"][1],
        "steps": real.steps.tolist(),
        "train_loss": real.train_loss.tolist(),
        "test_accuracy": real.test_accuracy.tolist(),
        "kinds": kinds,
    }


def measured(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By kind, its cost and, by head and predicted fall, the upper quartile of its curve's error.

    Errors are rounded up to a tenth of a percent. The cost is that of one prediction, its kernel included, in
    real runs: the median.
    """
    found: dict[str, dict[str, Any]] = {}
    for kind in of_which(rows):
        errors: dict[Head, list[float | None]] = {head: [] for head in HEADS.values()}
        for head, (lower, upper) in itertools.product(HEADS.values(), itertools.pairwise((-1.0, *FALLS))):
            own = [
                np.inf if row["kinds"][kind]["train_loss_error"] is None else row["kinds"][kind]["train_loss_error"]
                for row in rows
                if row["head"] == head and row["predicted_fall"] is not None and lower < row["predicted_fall"] <= upper
            ]
            quartile = float(np.quantile(own, 0.75)) if own else np.inf
            errors[head].append(math.ceil(1000 * quartile) / 1000 if math.isfinite(quartile) else None)
        cost = round(float(np.median([_cost(row, kind) for row in rows])), 2)
        found[kind] = {"cost": cost, "errors": errors}
    return found


def of_which(rows: list[dict[str, Any]]) -> list[str]:
    """The kinds that are measured, in their order."""
    return [kind for kind in KINDS if kind in rows[0]["kinds"]]


def _cost(row: dict[str, Any], kind: str) -> float:
    found = row["kinds"][kind]
    return (found["kernel_seconds"] + found["recipe_seconds"]) / row["real_seconds"]


def table(rows: list[dict[str, Any]]) -> str:
    """Errors and costs by kind; and how well the steps to reach a loss are predicted."""
    lines = [
        "Train-loss curve: mean |difference| / mean real loss. Test accuracy: |difference| at the end, in points. Both",
        "median (largest) over tasks and rates. Processor seconds, without compilation, of kernel and recipe, median;",
        "cost: of one prediction with its kernel, over the real run.",
        "",
        "| | fresh head: curve | accuracy | probe head: curve | accuracy | kernel, s | recipe, s | cost |",
        "| --- |" + " --- |" * 7,
    ]
    for kind in of_which(rows):
        cells, those = [], rows
        for head in HEADS.values():
            own = [row["kinds"][kind] for row in those if row["head"] == head]
            if not own:
                cells += ["", ""]
                continue
            cells.append(spread([found["train_loss_error"] for found in own], "{:.1%}"))
            cells.append(spread([100 * abs(found["test_accuracy_difference"]) for found in own], "{:.1f}"))
        seconds = [np.median([r["kinds"][kind][f"{what}_seconds"] for r in those]) for what in ("kernel", "recipe")]
        cells += [f"{seconds[0]:.1f}", f"{seconds[1]:.2f}", f"{np.median([_cost(row, kind) for row in those]):.2f}"]
        number = "" if len(those) == len(rows) else f" ({len(those)} of {len(rows)} runs)"
        lines.append(f"| {kind}: {KINDS[kind].label}{number} | " + " | ".join(cells) + " |")
    cells = [
        f"{np.median([1 - row['train_loss'][-1] / row['train_loss'][0] for row in rows if row['head'] == head]):.1%}"
        for head in HEADS.values()
    ]
    seconds = np.median([row["real_seconds"] for row in rows])
    by_weights = np.median([row["features_by_weights_seconds"] for row in rows])
    cost = np.median([row["features_by_weights_seconds"] / row["real_seconds"] for row in rows])
    lines.append(
        "| the features linearized, in weights | as features |" + " |" * 4 + f" {by_weights:.1f} | {cost:.2f} |"
    )
    lines.append(f"| the real run; its loss fell by | {cells[0]} | | {cells[1]} | | | {seconds:.1f} | 1 |")
    return "\n".join([*lines, "", *steps_table(rows)]) + "\n"


def steps_table(rows: list[dict[str, Any]]) -> list[str]:
    """Steps until the train loss is three quarters, a half and a quarter of its first value."""
    lines = [
        "Steps until the train loss is 75 %, 50 % and 25 % of its first value, where the real run gets there: how many",
        "the prediction reaches within the run too, their |error| relative to the real steps, median (largest); how",
        "many times less than the real run a prediction costs, with its kernel and once that is there.",
        "Zancato and others 2020 report 20 % error at 30 to 45 times less cost.",
        "",
        "| | reached | error | times less, first recipe | each further recipe |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind in of_which(rows):
        those = rows
        levels = [level for row in those for level in row["kinds"][kind]["steps_to_loss"] if level["reference_steps"]]
        errors = [abs(level["relative_error"]) for level in levels if level["relative_error"] is not None]
        first = np.median([1 / _cost(row, kind) for row in those])
        further = np.median([row["real_seconds"] / row["kinds"][kind]["recipe_seconds"] for row in those])
        cells = [f"{len(errors)} of {len(levels)}", spread(errors, "{:.0%}"), f"{first:.2g}", f"{further:.2g}"]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return lines


def figure(rows: list[dict[str, Any]]) -> Figure:
    """Error against cost: a panel for each head, a dot for each run, a cross for a kind's medians."""
    matplotlib.rcParams["svg.hashsalt"] = "prediction_kinds"
    drawing = Figure(figsize=(9, 4.2), layout="constrained")
    panels = drawing.subplots(1, len(HEADS), sharex=True, sharey=True)
    for head, axes in zip(HEADS.values(), panels, strict=True):
        for kind in of_which(rows):
            own = [row for row in rows if row["head"] == head]
            if not own:
                continue
            points = np.array([(_cost(row, kind), max(row["kinds"][kind]["train_loss_error"], 1e-4)) for row in own])
            axes.scatter(*points.T, s=14, color=COLOURS[kind], alpha=0.45, linewidths=0)
            axes.scatter(*np.median(points, 0), s=90, marker="P", color=COLOURS[kind], edgecolor="white", label=kind)
        axes.set(xscale="log", yscale="log", title=f"{head} head", xlabel="cost of one prediction / real run")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("error of the loss curve")
    panels[-1].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return drawing


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
