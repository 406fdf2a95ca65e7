"""Does a prediction hold for AdamW, which no kernel follows?

    python experiments/adamw.py --scale laptop --data ../shared/data

Real runs of resnet14-cifar10 by AdamW on six real tasks × two heads × two rates, frozen batch norm, cross-entropy, 48
images in minibatches of 16, 48 steps, decay 0.01; beside each `predict.moving` by the Jacobians themselves with one
(which is the linear prediction, `predict.explicit`), two, three and four anchors, and what each says of its own error:
of the network under a probe head, of its features under a fresh one. Nothing was chosen on these runs but the rates, by
real runs on three of the tasks. Rows are written as they finish, and a call that was interrupted goes on from there.
Writes rows.jsonl and table.md into results/adamw/SCALE.

Expected (results/adamw/laptop/table.md): from a probe head at 1e-4, where the loss falls by 95 %, the linear prediction
errs 18.7 % in the median and 26.6 % at most, that which is surest of itself 2.2 and 5.5 %, and all six tell and keep
10 %; at 3e-4, where it falls by 99.8 %, 23.2 and 34 %, and 6.0 and 11.9 %; all six tell 10 %, five keep it. From a
fresh head at 3e-4 17 and 10 %; at 1e-3, where five of six runs break, more anchors make it worse (15 and 44 %). Of the
rows from a fresh head all at 1e-3 and three at 3e-4 (mnist, hymenoptera, imagenet_coarse) are from before
weights were taken to be on the nearest segment of the path, and are to be made again.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import numpy as np
import tyro
from clock import Clock
from missing_rows import missing_rows
from options import Options, Scale
from tables import markdown, share, spread

import linft
from linft import predict
from linft.runtime import json_lines
from linft.workflows.compare.agreement import loss_curve_error

Head = Literal["normal", "probe"]
HEADS: dict[Head, tuple[str, Literal["network", "features"]]] = {
    "probe": ("probe", "network"),
    "normal": ("fresh", "features"),
}
"""Its name, and what is linearized under it."""


@dataclass(frozen=True)
class Config:
    """Sizes of the experiment."""

    tasks: tuple[str, ...] = ("digits", "fashion", "sign_digits", "mnist", "hymenoptera", "imagenet_coarse")
    network: str = "resnet14-cifar10"
    rates: tuple[tuple[Head, tuple[float, ...]], ...] = (("probe", (1e-4, 3e-4)), ("normal", (3e-4, 1e-3)))
    images: int = 48
    batch_size: int = 16
    steps: int = 48
    weight_decay: float = 0.01
    anchors: int = 4


CONFIGS: dict[Scale, Config] = {
    "smoke": Config(tasks=("digits",), rates=(("normal", (3e-4,)),), images=10, batch_size=5, steps=4, anchors=2),
    "laptop": Config(),
}


def main(options: Options) -> None:
    """Run what is missing, and write the table."""
    config, directory = CONFIGS[options.scale], options.directory("adamw")
    if "run" in options.do:
        for row in missing_rows(directory, config, partial(measure, config, options)):
            errors = [f"{stage['error']:.1%}" for stage in row["stages"]]
            print(row["key"], f"fell by {row['fall']:.0%}, off by", *errors, flush=True)
    if "report" in options.do:
        rows = json_lines.read(directory / "rows.jsonl")
        (directory / "table.md").write_text(table(rows))
        print(f"{len(rows)} rows; wrote {directory}/table.md", flush=True)


def measure(config: Config, options: Options, done: set[str]) -> Iterator[dict[str, Any]]:
    """One row for each real run that is not done: every task with a rate before the next one."""
    clock = Clock()
    cases: list[tuple[Head, float]] = [(head, rate) for head, rates in config.rates for rate in rates]
    for (head, rate), name in itertools.product(cases, options.chosen(config.tasks)):
        if (key := f"{name} {head} {rate}") in done:
            continue
        task = linft.load_task(options.source(name)).subset(config.images, config.images, seed=0)
        bare = linft.load_model(config.network)
        model = bare.with_head(task.num_classes, jax.random.key(0), head, task=task)
        recipe = linft.Recipe(
            optimizer="adam", convention="decoupled", weight_decay=config.weight_decay, learning_rate=rate,
            batch_size=config.batch_size, steps=config.steps,
        )  # fmt: skip
        real, real_seconds = clock(linft.finetune(model, task, record_every=1), recipe)
        run = predict.moving(model, task, at=HEADS[head][1], anchors=config.anchors)
        stages = []
        for followed, seconds in clock.each(run.stages(recipe)):
            found, losses = followed.trajectory, followed.evidence.predicted
            every_step = replace(found, steps=np.arange(len(losses)), train_loss=losses)
            stages.append(
                {
                    "anchors": followed.steps,
                    "error": loss_curve_error(every_step, real),
                    "told": found.certificate and found.certificate.error,
                    "accuracy": float(found.test_accuracy[-1] - real.test_accuracy[-1]),
                    "seconds": seconds,
                }
            )
        yield {
            "key": key,
            "task": name,
            "head": HEADS[head][0],
            "rate": rate,
            "fall": float(1 - real.train_loss[-1] / real.train_loss[0]),
            "broke": bool(np.any(real.train_loss > 1.5 * np.minimum.accumulate(real.train_loss))),
            "real_seconds": real_seconds,
            "stages": stages,
        }


def surest(row: dict[str, Any]) -> dict[str, Any]:
    """The stage that told the least error, as `predict.moving` takes it."""
    return min(reversed(row["stages"]), key=lambda stage: np.inf if stage["told"] is None else stage["told"])


def table(rows: list[dict[str, Any]]) -> str:
    """Errors by head and rate of the linear and the surest prediction."""
    title = (
        "Error of the train-loss curve, mean |difference| / mean real loss, and |difference| of the final test "
        "accuracy in points, linear and of the prediction that is surest of itself; cost, processor seconds without "
        "compilation of all anchors over those of the real run: median (largest). Broke: the real loss rose to one and "
        "a half times its least, momentarily or for good. Told and held: of those that told 10 % at most, how many "
        "kept it."
    )
    lines = []
    for head, rate in dict.fromkeys((row["head"], row["rate"]) for row in rows):
        those = [row for row in rows if (row["head"], row["rate"]) == (head, rate)]
        pairs = [(row["stages"][0], surest(row)) for row in those]
        sure = [stage["error"] for _, stage in pairs if stage["told"] is not None and stage["told"] <= 0.1]
        costs = [sum(stage["seconds"] for stage in row["stages"]) / row["real_seconds"] for row in those]
        errors, points = (
            [spread([form(pair[i]) for pair in pairs], shape) for i in (0, 1)]
            for form, shape in ((lambda s: s["error"], "{:.1%}"), (lambda s: 100 * abs(s["accuracy"]), "{:.1f}"))
        )
        fall = share(float(np.median([row["fall"] for row in those])))
        told = f"{sum(error <= 0.1 for error in sure)} of {len(sure)}"
        broke = sum(row["broke"] for row in those)
        lines.append((head, rate, len(those), broke, fall, *errors, *points, told, spread(costs, "{:.0f}")))
    heads = (
        "head", "rate", "runs", "broke", "real loss fell by", "curve, linear", "curve, moving", "accuracy, linear",
        "accuracy, moving", "told and held", "cost",
    )  # fmt: skip
    return markdown(title, heads, lines)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
