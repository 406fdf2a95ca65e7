"""Where is linearization trustworthy: of the whole network, or of its features only?

    python experiments/predicted_vs_actual.py --scale laptop --data ../shared/data

Three real tasks × three learning rates × two heads (fresh, linear probe) × two batch-norm modes ×
squared error and cross-entropy: 72 real runs, each beside the same recipe predicted from the
tangent kernel (`dual`) and trained with the features to first order. Rows are written as they
finish, and a call that was interrupted goes on from there. Writes rows.jsonl, table.md and
figure.svg into results/predicted_vs_actual/SCALE.

Expected (and found on 2 CPU cores in half an hour): errors grow with the learning rate and with how far
the loss falls; training-mode batch norm, which no kernel knows, errs most; with a fresh head and frozen
batch norm the features' linearization follows several times more closely than the network's; with a
probe head the two hardly differ. Deshpande and others 2021 (section 3.1) rest on linearization near the
pretrained weights.
"""

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import jax
import matplotlib
import numpy as np
import tyro
from matplotlib.figure import Figure
from options import Options, Scale

import linft
from linft.core.base import Model, Run, Task
from linft.runtime import json_lines
from linft.runtime.claims import claim
from linft.workflows.compare.agreement import agreement

BATCH_NORM = {"frozen": "frozen", "train": "training mode"}
HEADS: dict[Literal["normal", "probe"], str] = {"normal": "fresh", "probe": "probe"}
PREDICTIONS = {"dual": "network linearized", "features": "features linearized"}
COLOURS = {"dual": "#0072b2", "features": "#d55e00"}


@dataclass(frozen=True)
class Config:
    """Sizes of the experiment."""

    tasks: tuple[str, ...] = ("hymenoptera", "ucmerced16", "sign_digits")
    model: str = "resnet14-cifar10"
    train_images: int = 96
    test_images: int = 96
    rates: tuple[float, ...] = (0.0005, 0.002, 0.005)
    steps: int = 30
    batch_size: int = 32


CONFIGS: dict[Scale, Config] = {
    "smoke": Config(train_images=8, test_images=8, rates=(0.005,), steps=2, batch_size=4),
    "laptop": Config(),
}


def main(options: Options) -> None:
    """Run what is missing, then draw the table and the figure."""
    directory, config = options.directory("predicted_vs_actual"), CONFIGS[options.scale]
    file = directory / "rows.jsonl"
    if "run" in options.do:
        claim(directory / "config.json", asdict(config), "rows")
        for row in measure(config, options, {row["key"] for row in json_lines.read(file)}):
            json_lines.append(file, [row])
            print(f"{row['key']}: {row['error']}", flush=True)
    if "report" in options.do:
        rows = json_lines.read(file)
        (directory / "table.md").write_text(table(rows))
        figure(rows).savefig(directory / "figure.svg", metadata={"Date": None})
        print(f"{len(rows)} rows; wrote {directory}/table.md and {directory}/figure.svg")


def measure(config: Config, options: Options, done: set[str]) -> Iterator[dict[str, Any]]:
    """One row for each real run that is not done."""
    tasks = options.chosen(config.tasks)
    for name, head, loss in itertools.product(tasks, HEADS, ("cross_entropy", "squared_error")):
        keys = {(rate, bn): f"{name} {head} {loss} {rate} {bn}" for rate in config.rates for bn in BATCH_NORM}
        if done >= set(keys.values()):
            continue
        task = linft.load_task(options.source(name)).subset(config.train_images, config.test_images, seed=0)
        model = linft.load_model(config.model)
        model = model.with_head(task.num_classes, jax.random.key(0), head, task=task)
        tangent = linft.predict.tangent(model, task)
        runs = _runs(model, task, tangent)
        for rate in config.rates:
            missing = [bn for bn in BATCH_NORM if keys[rate, bn] not in done]
            if not missing:
                continue
            recipe = linft.Recipe(learning_rate=rate, batch_size=config.batch_size, steps=config.steps, loss=loss)
            predicted = {how: runs[how](recipe) for how in PREDICTIONS}
            edge = linft.predict.stability(tangent, recipe)
            for bn in missing:
                real = runs["real"](recipe.replace(batch_norm=bn))
                found = {how: agreement(run, real) for how, run in predicted.items()}
                yield {
                    "key": keys[rate, bn],
                    "task": name,
                    "head": head,
                    "loss": loss,
                    "rate": rate,
                    "batch_norm": bn,
                    "stable": edge.stable,
                    "h": max(edge.h, edge.worst_batch_h),
                    "limit": edge.limit,
                    "first_loss": float(real.train_loss[0]),
                    "last_loss": float(real.train_loss[-1]),
                    "test_accuracy": float(real.test_accuracy[-1]),
                    "diverged_at": real.diverged_at,
                    "error": {how: a.train_loss_error for how, a in found.items()},
                    "accuracy_difference": {how: a.test_accuracy_difference for how, a in found.items()},
                    "predicted_diverged_at": {how: run.diverged_at for how, run in predicted.items()},
                }


def _runs(model: Model, task: Task, tangent: linft.Tangent) -> dict[str, Run]:
    return {
        "real": linft.finetune(model, task),
        "dual": linft.predict.dual(tangent),
        "features": linft.finetune(linft.linearize(model, at="features"), task),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Median error of the stable recipes for each head, batch norm and rate, and how far the real loss fell."""
    rates = sorted({row["rate"] for row in rows})
    lines = [
        "Error of the predicted train-loss curve, mean |difference| / mean real loss: median over tasks and losses",
        "(largest in brackets), of the recipes below the predicted edge of stability; how many lie beyond it; and by",
        "how much of its first value the real loss fell (median).",
        "",
        "| head | batch norm | | " + " | ".join(f"rate {rate:g}" for rate in rates) + " |",
        "| --- | --- | --- |" + " --- |" * len(rates),
    ]
    for head, bn in itertools.product(HEADS, BATCH_NORM):
        own = [[r for r in rows if (r["head"], r["batch_norm"], r["rate"]) == (head, bn, rate)] for rate in rates]
        stable = [[row for row in cell if row["stable"]] for cell in own]
        texts = {
            label: [_median([row["error"][how] for row in cell], with_largest=True) for cell in stable]
            for how, label in PREDICTIONS.items()
        }
        texts["real loss fell by"] = [_median([1 - r["last_loss"] / r["first_loss"] for r in cell]) for cell in stable]
        texts["beyond the edge"] = [f"{len(a) - len(b)} of {len(a)}" for a, b in zip(own, stable, strict=True)]
        for label, cells in texts.items():
            lines.append(f"| {HEADS[head]} | {BATCH_NORM[bn]} | {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _median(values: list[float], with_largest: bool = False) -> str:
    if not values:
        return "–"
    return f"{np.median(values):.1%}" + (f" ({max(values):.1%})" if with_largest else "")


def figure(rows: list[dict[str, Any]]) -> Figure:
    """Error of stable recipes against learning rate: a panel for each head and batch norm, a line a task and loss."""
    matplotlib.rcParams["svg.hashsalt"] = "predicted_vs_actual"
    drawing = Figure(figsize=(8, 6), layout="constrained")
    panels = drawing.subplots(len(HEADS), len(BATCH_NORM), sharex=True, sharey=True)
    for (head, bn), axes in zip(itertools.product(HEADS, BATCH_NORM), panels.flat, strict=True):
        for how, task, loss in itertools.product(
            PREDICTIONS, sorted({r["task"] for r in rows}), ("cross_entropy", "squared_error")
        ):
            own = [r for r in rows if (r["head"], r["batch_norm"], r["task"], r["loss"]) == (head, bn, task, loss)]
            own = sorted((r for r in own if r["stable"]), key=lambda r: r["rate"])
            axes.plot(
                [r["rate"] for r in own],
                [r["error"][how] for r in own],
                color=COLOURS[how],
                alpha=0.75,
                linewidth=1.3,
                marker="o" if loss == "cross_entropy" else "s",
                markersize=4,
                linestyle="-" if loss == "cross_entropy" else "--",
            )
        axes.set(xscale="log", yscale="log", title=f"{HEADS[head]} head, batch norm {BATCH_NORM[bn]}")
        axes.grid(alpha=0.3)
    rates = sorted({row["rate"] for row in rows})
    for axes in panels[-1]:
        axes.set_xlabel("learning rate")
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axes.set_xticks([], minor=True)
    for axes in panels[:, 0]:
        axes.set_ylabel("error of the loss curve")
    for how, label in PREDICTIONS.items():
        panels[1, 0].plot([], [], color=COLOURS[how], label=label)
    for style, marker, label in (("-", "o", "cross-entropy"), ("--", "s", "squared error")):
        panels[1, 0].plot([], [], color="0.3", linestyle=style, marker=marker, markersize=4, label=label)
    panels[1, 0].legend(fontsize="small", loc="lower center")
    return drawing


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
