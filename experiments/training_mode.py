"""Batch norm in training mode, as people fine-tune: predicted with frozen statistics, and with those the weights move.

    python experiments/training_mode.py --scale laptop --data ../shared/data

Six real tasks × two heads (fresh, linear probe) × two learning rates: 24 real runs with batch norm in training mode,
Nesterov 0.9, cross-entropy; beside each the linear prediction by the network's kernel and by the features' (head
exact, few directions), with frozen batch norm, as a Recipe without training mode would have it, and in training mode;
and in training mode that of the kernel that moves (the network's under a probe head, the features' under a fresh one).
Real and predicted losses are those of the training images with their own statistics (`Trajectory.reestimated`).
Two tasks are reported apart, fashion and imagenet_coarse: nothing was chosen on them. Rows are written as they
finish. Writes rows.jsonl, table.md and figure.svg into results/training_mode/SCALE.

Expected (results/training_mode/laptop/table.md): on the two tasks apart, with a probe head, the real loss falling by
75 %, the kernel in training mode errs 5.8 % in the median and 10.2 % at most, that of frozen batch norm 21 and 22 %;
the final test accuracy is off by 0 points (2.5 at most), frozen by 10 (11). With a fresh head, the loss falling by
61 %, the features' kernel errs 6.5 % (15.5 %), frozen 17.7 % (26 %); there the network's kernel errs 16 % in training
mode, no better than frozen. On the four others, probe head: 7.5 % (16.9 %) and 28 % (39 %); fresh: 4.8 % (16.7 %) and
5.1 % (26 %). The moving kernel errs 1.9 % (3.5 %) on the tasks apart with a probe head and 1.2 % (2.0 %) with a fresh
one; of its sixteen rows on the others six are there so far, with a probe head: 1.7 % (8.6 %).
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import curves
import jax
import numpy as np
import tyro
from curves import Line, Panel
from matplotlib.figure import Figure
from missing_rows import missing_rows
from options import Options, Scale
from tables import markdown, share, spread

import linft
from linft import predict
from linft.core.base import Curves, Model, RunningCurves, Trajectory, recorded_steps
from linft.runtime import json_lines
from linft.workflows.compare.agreement import loss_curve_error

KINDS = {
    "network, frozen": partial(predict.dual, batch_norm="frozen"),
    "network": partial(predict.dual, batch_norm="train"),
    "features, frozen": partial(predict.feature_dual, outputs="low-rank", batch_norm="frozen"),
    "features": partial(predict.feature_dual, outputs="low-rank", batch_norm="train"),
}
MOVING: dict[str, Literal["network", "features"]] = {"probe": "network", "normal": "features"}
"""What moves under each head."""
HEADINGS = ("head", "tasks", "runs", "real loss fell by", "kernel", "curve", "accuracy", "accuracy, running averages")
HEADS: dict[Literal["normal", "probe"], str] = {"normal": "fresh", "probe": "probe"}


@dataclass(frozen=True)
class Config:
    """Sizes of the experiment."""

    tasks: tuple[str, ...] = ("digits", "hymenoptera", "sign_digits", "ucmerced16", "fashion", "imagenet_coarse")
    apart: tuple[str, ...] = ("fashion", "imagenet_coarse")
    """Tasks on which nothing was chosen."""
    model: str = "resnet14-cifar10"
    train_images: int = 80
    test_images: int = 80
    rates: tuple[tuple[Literal["normal", "probe"], tuple[float, ...]], ...] = (
        ("normal", (0.01, 0.003)),
        ("probe", (0.003, 0.001)),
    )
    steps: int = 60
    batch_size: int = 20


CONFIGS: dict[Scale, Config] = {
    "smoke": Config(
        tasks=("digits", "fashion"),
        train_images=20,
        test_images=8,
        rates=(("probe", (0.001,)),),
        steps=3,
        batch_size=5,
    ),
    "laptop": Config(),
}


DOCUMENTED = (Path(__file__).parents[1] / "docs" / "predicted_in_training_mode.svg",)
"""Where the figure is shown."""


def main(options: Options) -> None:
    """Run what is missing, and draw the table."""
    directory, config = options.directory("training_mode"), CONFIGS[options.scale]
    if "run" in options.do:
        run(config, options, directory)
    if "report" in options.do:
        rows = json_lines.read(directory / "rows.jsonl")
        (directory / "table.md").write_text(table(rows, config))
        for file in (directory / "figure.svg", *(DOCUMENTED if options.scale == "laptop" else ())):
            figure(rows, config).savefig(file, metadata={"Date": None})
        print(f"{len(rows)} rows; wrote {directory}/table.md", flush=True)


def run(config: Config, options: Options, directory: Path) -> None:
    """Write what is missing."""
    for row in missing_rows(directory, config, partial(measure, config, options)):
        print(row["key"], json.dumps({kind: found["error"] for kind, found in row["kinds"].items()}), flush=True)


def measure(config: Config, options: Options, done: set[str]) -> Iterator[dict[str, Any]]:
    """One row for each real run that is not done beside linear predictions, then one beside the moving one."""
    bare = linft.load_model(config.model)
    tasks = options.chosen(config.tasks)
    for (suffix, predicted), name, (head, rates) in itertools.product(PREDICTED.items(), tasks, config.rates):
        todo = [rate for rate in rates if f"{name} {head} {rate}{suffix}" not in done]
        if not todo:
            continue
        task = linft.load_task(options.source(name)).subset(config.train_images, config.test_images, seed=0)
        model = bare.with_head(task.num_classes, jax.random.key(0), head, task=task)
        recipes = [
            linft.Recipe(learning_rate=rate, batch_size=config.batch_size, steps=config.steps, batch_norm="train")
            for rate in todo
        ]
        for recipe, of_recipe in zip(recipes, predicted(model, task, head, recipes), strict=True):
            real = linft.finetune(model, task)(recipe)
            assert real.reestimated is not None
            yield {
                "key": f"{name} {head} {recipe.learning_rate}{suffix}",
                "task": name,
                "head": HEADS[head],
                "rate": recipe.learning_rate,
                "fall": float(1 - real.reestimated.train_loss[-1] / real.reestimated.train_loss[0]),
                "train_loss": real.reestimated.train_loss.tolist(),
                "test_accuracy": real.reestimated.test_accuracy.tolist(),
                "running_test_accuracy": real.test_accuracy.tolist(),
                "kinds": {kind: _compared(run, real, real.reestimated) for kind, run in of_recipe.items()},
            }


def _linear(model: Model, task: linft.Task, head: str, recipes: list[linft.Recipe]) -> Iterator[dict[str, Trajectory]]:
    frozen = [recipe.replace(batch_norm="frozen") for recipe in recipes]
    found = {kind: run(model, task).many(frozen if "frozen" in kind else recipes) for kind, run in KINDS.items()}
    for place in range(len(recipes)):
        yield {kind: runs[place] for kind, runs in found.items()}


def _moving(model: Model, task: linft.Task, head: str, recipes: list[linft.Recipe]) -> Iterator[dict[str, Trajectory]]:
    for recipe in recipes:
        yield {"moving": predict.moving(model, task, at=MOVING[head], batch_norm="train")(recipe)}


PREDICTED = {"": _linear, " moving": _moving}
"""Predictions whose rows are found together, by how their keys end."""


def _compared(predicted: Trajectory, real: Trajectory, own: Curves) -> dict[str, Any]:
    """Against the real curves with the training images' own statistics."""
    comparable = Trajectory(real.steps, *own, distance={}, norm={}, seconds=real.seconds)
    certificate = predicted.certificate
    return {
        "error": loss_curve_error(predicted, comparable),
        "accuracy": float(predicted.test_accuracy[-1] - own.test_accuracy[-1]),
        "train_loss": predicted.train_loss.tolist(),
        **({} if certificate is None else {"told": certificate.error, "seconds": predicted.seconds}),
        **({} if predicted.running is None else {"running": _at_the_end(predicted.running, real)}),
    }


def _at_the_end(predicted: RunningCurves, real: Trajectory) -> dict[str, float]:
    """With the running averages, as the trained network is used: predicted minus real."""
    return {name: float(getattr(predicted, name)[-1] - getattr(real, name)[-1]) for name in RunningCurves._fields[1:]}


def table(rows: list[dict[str, Any]], config: Config) -> str:
    """Median and largest error by head and kind, of the tasks apart and of the others."""
    title = (
        "Error of the train-loss curve, mean |difference| / mean real loss, and |difference| of the final test "
        "accuracy in points, with the training images' statistics and, in rows of a moving kernel that tell it, with "
        "the running averages; median (largest) over tasks and rates. Batch norm of the real runs is in training mode."
    )
    lines = []
    for head, apart in itertools.product(HEADS.values(), (False, True)):
        of_head = [row for row in rows if row["head"] == head and (row["task"] in config.apart) == apart]
        for kind in (*KINDS, "moving"):
            own = [row for row in of_head if kind in row["kinds"]]
            if not own:
                continue
            fall = share(float(np.median([row["fall"] for row in own])))
            errors = [_known(row["kinds"][kind]["error"]) for row in own]
            points = [100 * abs(row["kinds"][kind]["accuracy"]) for row in own]
            with_running = [of["running"]["test_accuracy"] for row in own if "running" in (of := row["kinds"][kind])]
            lags = [100 * abs(difference) for difference in with_running]
            which = "apart" if apart else "others"
            spreads = spread(errors, "{:.1%}"), spread(points, "{:.1f}"), spread(lags, "{:.1f}")
            lines.append((head, which, len(own), fall, kind, *spreads))
    return markdown(title, HEADINGS, lines)


LINES = {
    "network, frozen": Line("linear, batch norm frozen", {"color": "#9a9a9a", "linestyle": ":"}),
    "network": Line("linear, training mode", curves.FIRST),
    "moving": Line("kernel moving, training mode", curves.LAST),
}
"""Of the figure, by kind."""


def figure(rows: list[dict[str, Any]], config: Config) -> Figure:
    """The train loss of every task from a probe head at the larger rate: real, frozen, linear and moving."""
    head, (rate, *_) = config.rates[-1]
    panels = []
    for name in config.tasks:
        own = [row for row in rows if (row["task"], row["head"], row["rate"]) == (name, HEADS[head], rate)]
        kinds = {kind: found for row in own for kind, found in row["kinds"].items()}
        if LINES.keys() <= kinds.keys():
            drawn = [own[0]["train_loss"], *(kinds[kind]["train_loss"] for kind in LINES)]
            errors = (_known(kinds["network, frozen"]["error"]), _known(kinds["moving"]["error"]))
            steps = recorded_steps(config.steps, None)
            panels.append(Panel(name, steps.tolist(), drawn, errors))
    return curves.figure("training_mode", (curves.REAL, *LINES.values()), panels)


def _known(error: float | None) -> float:
    """A curve that ends at once is as wrong as can be."""
    return np.inf if error is None else error


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
