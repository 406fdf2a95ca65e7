"""Does a prediction whose kernel moves hold, and does it know beforehand whether it does?

    python experiments/certificates.py --scale laptop --data ../shared/data

Real runs of two networks on six real tasks, frozen batch norm, cross-entropy, 48 images in minibatches of 16: from a
probe head 48 steps at two rates, from a fresh head 96 and 48 steps; beside each `predict.moving` with one anchor (which
is the linear prediction), two, three and four, and what its certificate says of each. Development: resnet14-cifar10 on
digits, sign_digits, hymenoptera and mnist, on which the certificate was made. Apart: fashion and imagenet_coarse, and
ResNet-20 on any task, decided before any of them was run; but of a probe head all of them at 0.001, and those of
ResNet-14 at 0.003, had been seen when the certificate and the rule of the surest were settled. Each real
run is made again with the minibatches in another order. Rows are written as they finish; an interrupted call goes on.
Writes rows.jsonl, table.md and figure.svg into results/certificates/SCALE.

Expected (results/certificates/laptop/table.md): with a probe head, of the 16 runs apart that did not break, the linear
prediction errs 19.5 % in the median, that which is surest of itself 4.5 %, nine of ten 13.8 %; the final test accuracy
2.1 points (linear 10.4). With a fresh head, of the 5 apart that did not break, 10.7 %, 3.4 % and 7.0 %; 2.1 points
(16.7). Of 43 predictions that told 10 % at most 37 kept it; of 59 that were so near 37 had told it. Above the edge of
stability along the path more anchors make it worse, and it tells; that a run from a fresh head breaks it does not tell.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import curves
import jax
import numpy as np
import tyro
from clock import Clock
from curves import Line, Panel
from matplotlib.figure import Figure
from missing_rows import missing_rows
from options import Options, Scale
from tables import markdown, number, share, spread

import linft
from linft import predict
from linft.core.base import Trajectory
from linft.predict.certificate import Evidence, evidence
from linft.runtime import json_lines
from linft.workflows.compare.agreement import LEVELS, steps_to_loss

Case = tuple[Literal["normal", "probe"], Literal["network", "features"], float, int]
HEADS = {"normal": "fresh", "probe": "probe"}
AGAIN = " again"
"""How the key of a real run ends that takes the minibatches in another order."""


@dataclass(frozen=True)
class Config:
    """Sizes of the experiment."""

    tasks: tuple[str, ...] = ("digits", "fashion", "sign_digits", "mnist", "hymenoptera", "imagenet_coarse")
    development: tuple[str, ...] = ("digits", "sign_digits", "hymenoptera", "mnist")
    networks: tuple[str, ...] = ("resnet14-cifar10", "resnet20")
    """The first is that of development."""
    cases: tuple[Case, ...] = (
        ("probe", "network", 0.001, 48),
        ("probe", "network", 0.003, 48),
        ("normal", "features", 0.003, 96),
        ("normal", "features", 0.01, 48),
    )
    """Head, what moves, learning rate, steps."""
    images: int = 48
    batch_size: int = 16
    anchors: int = 4


CONFIGS: dict[Scale, Config] = {
    "smoke": Config(
        tasks=("digits", "fashion"),
        networks=("resnet14-cifar10",),
        cases=(("probe", "network", 0.001, 6), ("normal", "features", 0.01, 6)),
        images=10,
        batch_size=5,
        anchors=2,
    ),
    "laptop": Config(),
}


DOCUMENTED = (Path(__file__).parents[1] / "docs" / "predicted_along_the_path.svg",)
"""Where the figure is shown."""


def main(options: Options) -> None:
    """Run what is missing, and draw the table."""
    config, directory = CONFIGS[options.scale], options.directory("certificates")
    if "run" in options.do:
        run(config, options, directory)
    if "report" in options.do:
        rows, again = read(directory)
        (directory / "table.md").write_text(table(rows, again, config))
        for file in (directory / "figure.svg", *(DOCUMENTED if options.scale == "laptop" else ())):
            figure(rows, config).savefig(file, metadata={"Date": None})
        print(f"{len(rows)} rows; wrote {directory}/table.md", flush=True)


def run(config: Config, options: Options, directory: Path) -> None:
    """Write what is missing."""
    for row in missing_rows(directory, config, partial(measure, config, options)):
        errors = [f"{stage_error(row, stage):.1%}" for stage in row.get("stages", ())]
        print(row["key"], f"fell by {row['fall']:.0%}", *(["off by", *errors] if errors else ()), flush=True)


def measure(config: Config, options: Options, done: set[str]) -> Iterator[dict[str, Any]]:
    """One row for each real run and kind that is not done, every network and task with a case before the next one."""
    clock = Clock()
    for case, network, name in itertools.product(config.cases, config.networks, options.chosen(config.tasks)):
        key, (head, at, rate, steps) = " ".join(map(str, (network, name, *case))), case
        if {key, again := key + AGAIN} <= done:
            continue
        task = linft.load_task(options.source(name)).subset(config.images, config.images, seed=0)
        model = linft.load_model(_file(network, options)).with_head(
            task.num_classes, jax.random.key(0), head, task=task
        )
        recipe = linft.Recipe(learning_rate=rate, batch_size=config.batch_size, steps=steps)
        about = {"network": network, "task": name, "head": HEADS[head], "at": at, "rate": rate}
        finetune = linft.finetune(model, task, record_every=1)
        if again not in done:
            yield {"key": again, **about, **_run(finetune(recipe.replace(seed=1)))}
        if key in done:
            continue
        real, real_seconds = clock(finetune, recipe)
        run, stages = predict.moving(model, task, at=at, anchors=config.anchors), []
        for followed, seconds in clock.each(run.stages(recipe)):
            told = followed.evidence
            stages.append(
                {
                    "anchors": followed.steps,
                    "edges": followed.edges,
                    "seconds": seconds,
                    "train_loss": _rounded(told.predicted),
                    "looks": {str(step): _rounded([loss])[0] for step, loss in told.looks.items()},
                    "diverged_at": followed.trajectory.diverged_at,
                    "test_accuracy": float(followed.trajectory.test_accuracy[-1]),
                }
            )
        yield {"key": key, **about, "real_seconds": real_seconds, **_run(real), "stages": stages}


def _run(real: Trajectory) -> dict[str, Any]:
    return {
        "fall": float(1 - real.train_loss[-1] / real.train_loss[0]),
        "real_diverged_at": real.diverged_at,
        "train_loss": _rounded(real.train_loss),
        "test_accuracy": float(real.test_accuracy[-1]),
    }


def _file(network: str, options: Options) -> str:
    """A network as `linft.load_model` names it."""
    if network == "resnet20":
        return str(options.data.parent / "weights/resnet20_cifar10_akamaster.safetensors")
    return network


def _rounded(values: Any) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def read(directory: Path) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """The runs beside their predictions; and by their keys those with the minibatches in another order."""
    every = json_lines.read(directory / "rows.jsonl")
    again = {row["key"].removesuffix(AGAIN): row for row in every if row["key"].endswith(AGAIN)}
    return [row for row in every if "stages" in row], again


def _place(row: dict[str, Any], place: int | Literal["surest"]) -> int:
    """Of the prediction with so many anchors, or with all that could be set; or of that surest of itself."""
    if place == "surest":
        told = [evidence_of(row, k).error(len(stage["train_loss"])) for k, stage in enumerate(row["stages"])]
        return len(told) - 1 - int(np.argmin(told[::-1]))
    return min(place, len(row["stages"]) - 1)


def steps_off(row: dict[str, Any], stage: dict[str, Any]) -> list[float]:
    """|error| of the steps to each loss that both reach, relative to the real ones."""
    curves = [np.array(found["train_loss"]) for found in (row, stage)]
    levels = [level * curves[0][0] for level in LEVELS]
    steps = [[steps_to_loss(np.arange(len(curve)), curve, level) for curve in curves] for level in levels]
    return [abs(predicted - real) / real for real, predicted in steps if real and predicted]


def stage_error(row: dict[str, Any], stage: dict[str, Any]) -> float:
    """Mean |difference| / mean real loss over the steps that both have; inf where only one of them diverged."""
    if len(stage["train_loss"]) != len(row["train_loss"]):
        return float("inf")
    predicted, real = np.array(stage["train_loss"]), np.array(row["train_loss"])
    return float(np.abs(predicted - real).mean() / real.mean())


def evidence_of(row: dict[str, Any], place: int) -> Evidence:
    """What the prediction with so many anchors said of itself."""
    stages, stage = row["stages"][: place + 1], row["stages"][place]
    looks = {int(step): loss for step, loss in stage["looks"].items()}
    return evidence([np.array(of["train_loss"]) for of in stages], looks, stage["diverged_at"] is not None)


def table(rows: list[dict[str, Any]], again: dict[str, dict[str, Any]], config: Config) -> str:
    """Errors by the number of anchors; and what the certificates said against what was."""
    tables = (
        errors_table(rows, again, config), cases_table(rows, config), certificates_table(rows, config),
        breaks_table(rows, config),
    )  # fmt: skip
    return "\n".join(tables)


def parts(rows: list[dict[str, Any]], config: Config) -> dict[str, list[dict[str, Any]]]:
    """The rows of development, those apart, and of these the ones that had not been seen before every choice."""
    there = [row for row in rows if apart(row, config)]
    return {
        "development": [row for row in rows if not apart(row, config)],
        "apart": there,
        "of these, after every choice": [row for row in there if not seen(row)],
    }


ERRORS = """\
Error of the train-loss curve, mean |difference| / mean real loss, and what nine of ten keep; relative error of the
steps until the loss is 75, 50 and 25 % of the first, median; |difference| of the final test accuracy in points; cost,
processor seconds without compilation of the prediction with so many anchors over those of the real run: median
(largest), of real runs that did not break (below). Surest: with that of the four that told the least error, as
`predict.moving` takes it. Real, other order: of a real run that takes the minibatches in another order."""


def errors_table(rows: list[dict[str, Any]], again: dict[str, dict[str, Any]], config: Config) -> str:
    """Median and largest error of each kind, with one anchor and more."""
    lines = []
    for (part, own), (head, at) in itertools.product(
        parts(rows, config).items(), dict.fromkeys(case[:2] for case in config.cases)
    ):
        those = [
            row for row in own if (row["head"], row["at"]) == (HEADS[head], at) and broke_at(row["train_loss"]) is None
        ]
        fall = share(float(np.median([row["fall"] for row in those]))) if those else ""
        for place in (*range(config.anchors), "surest") if those else ():
            upto = config.anchors if place == "surest" else place + 1
            costs = [sum(stage["seconds"] for stage in row["stages"][:upto]) / row["real_seconds"] for row in those]
            cells = _errors([(row, row["stages"][_place(row, place)]) for row in those])
            named = (part, HEADS[head], at, len(those), fall) if place == 0 else ("",) * 5
            lines.append((*named, place if place == "surest" else place + 1, *cells, spread(costs, "{:.0f}")))
        if twice := [(row, again[row["key"]]) for row in those if row["key"] in again]:
            lines.append((*("",) * 5, "real, other order", *_errors(twice), ""))
    heads = (
        "runs", "head", "linearized", "number", "real loss fell by", "anchors", "curve", "90 % of them", "steps",
        "accuracy", "cost",
    )  # fmt: skip
    return markdown(ERRORS, heads, lines)


def _errors(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> tuple[str, ...]:
    """Of a real run and another one, or a prediction."""
    points = [100 * abs(other["test_accuracy"] - row["test_accuracy"]) for row, other in pairs]
    errors = [stage_error(*pair) for pair in pairs]
    steps = [off for pair in pairs for off in steps_off(*pair)]
    return (
        spread(errors, "{:.1%}"),
        share(float(np.quantile(errors, 0.9))),
        share(float(np.median(steps)) if steps else None),
        spread(points, "{:.1f}"),
    )


CASES = """\
The same of all runs, those that broke too, by learning rate: error of the curve, linear and of the surest prediction,
median (largest)."""


def cases_table(rows: list[dict[str, Any]], config: Config) -> str:
    """Errors of every case, whether runs broke or not."""
    lines = []
    for (part, own), (head, at, rate, steps) in itertools.product(parts(rows, config).items(), config.cases):
        those = [row for row in own if (row["head"], row["at"], row["rate"]) == (HEADS[head], at, rate)]
        if not those:
            continue
        errors = [
            spread([stage_error(row, row["stages"][_place(row, place)]) for row in those], "{:.1%}")
            for place in (0, "surest")
        ]
        broke = sum(broke_at(row["train_loss"]) is not None for row in those)
        fall = share(float(np.median([row["fall"] for row in those])))
        lines.append((part, HEADS[head], at, rate, steps, len(those), broke, fall, *errors))
    heads = (
        "runs", "head", "linearized", "rate", "steps", "number", "broke", "real loss fell by", "linear", "surest",
    )  # fmt: skip
    return markdown(CASES, heads, lines)


GOOD = 0.1
CERTIFICATES = """\
Certificates of these predictions, with one anchor and with more. Told and held: of those that told 10 % at most, how
many kept it. Held and told: of those that were so near, how many had told it. Within: how many errors were at most
the error told. Ratio: of the error to that told, that nine of ten keep."""


def certificates_table(rows: list[dict[str, Any]], config: Config) -> str:
    """How the error told compares with the real one."""
    lines = []
    heads = {"any": set(HEADS.values()), **{head: {head} for head in HEADS.values()}}
    for (part, own), (head, which), several in itertools.product(
        parts(rows, config).items(), heads.items(), (False, True)
    ):
        those = [row for row in own if row["head"] in which]
        stages = [(row, k) for row in those for k in range(len(row["stages"])) if (k > 0) == several]
        if not stages:
            continue
        told = np.array([evidence_of(row, k).error(len(row["stages"][k]["train_loss"])) for row, k in stages])
        real = np.array([stage_error(row, row["stages"][k]) for row, k in stages])
        known = np.isfinite(told) & np.isfinite(real) & (told > 0)
        quantile = float(np.quantile(real[known] / told[known], 0.9)) if known.any() else None
        lines.append(
            (
                part,
                head,
                "2 to 4" if several else 1,
                len(stages),
                f"{(real[told <= GOOD] <= GOOD).sum()} of {(told <= GOOD).sum()}",
                f"{(told[real <= GOOD] <= GOOD).sum()} of {(real <= GOOD).sum()}",
                f"{(real <= told).sum()} of {len(stages)}",
                number(quantile),
            )
        )
    titles = (
        "runs", "head", "anchors", "predictions", "told and held", "held and told", "within what was told", "ratio",
    )  # fmt: skip
    return markdown(CERTIFICATES, titles, lines)


BREAKS = """\
Runs that broke: the train loss rose to one and a half times the least before. How many did, how many of them were
predicted to, how far off the step was, median (largest); how many did not and were predicted to; and of those that
broke, in how many the horizon of 10 % ended before."""


def breaks_table(rows: list[dict[str, Any]], config: Config) -> str:
    """Which runs broke, and whether that was foreseen."""
    lines = []
    for (part, own), place in itertools.product(parts(rows, config).items(), (0, config.anchors - 1, "surest")):
        found = [(broke_at(row["train_loss"]), row, _place(row, place)) for row in own]
        real = [(step, row, k) for step, row, k in found if step is not None]
        predicted = [(step, broke_at(row["stages"][k]["train_loss"])) for step, row, k in real]
        alarms = [
            row for step, row, k in found if step is None and broke_at(row["stages"][k]["train_loss"]) is not None
        ]
        before = [step for step, row, k in real if evidence_of(row, k).certificate(GOOD).horizon < step]
        off = [abs(step - there) for step, there in predicted if there is not None]
        calm, named = len(found) - len(real), place if place == "surest" else place + 1
        lines.append((part, named, len(real), len(off), spread(off, "{:.0f}"), f"{len(alarms)} of {calm}", len(before)))
    heads = ("runs", "anchors", "broke", "foreseen", "steps off", "false alarms", "not trusted")
    return markdown(BREAKS, heads, lines)


def broke_at(loss: list[float]) -> int | None:
    """The first step at which a train loss is one and a half times the least before; None where it never is."""
    least = np.minimum.accumulate(loss)
    broken = np.flatnonzero(np.array(loss)[1:] > 1.5 * least[:-1])
    return int(broken[0]) + 1 if len(broken) else None


LINES = (curves.REAL, Line("linear, predicted", curves.FIRST), Line("kernel moving, predicted", curves.LAST))


def figure(rows: list[dict[str, Any]], config: Config) -> Figure:
    """The train loss of the first network and case on every task, real, linear and moving, with their errors."""
    head, at, rate, _ = config.cases[0]
    wanted = (config.networks[0], HEADS[head], at, rate)
    shown = [row for row in rows if tuple(row[name] for name in ("network", "head", "at", "rate")) == wanted]
    panels = []
    for row in sorted(shown, key=lambda row: config.tasks.index(row["task"])):
        first, *_, last = row["stages"]
        errors = (stage_error(row, first), stage_error(row, last))
        drawn = [found["train_loss"] for found in (row, first, last)]
        panels.append(Panel(row["task"], range(len(row["train_loss"])), drawn, errors))
    return curves.figure("certificates", LINES, panels)


def apart(row: dict[str, Any], config: Config) -> bool:
    """Whether a run had no part in the calibration."""
    return row["network"] != config.networks[0] or row["task"] not in config.development


SEEN = {("resnet14-cifar10", 0.001), ("resnet14-cifar10", 0.003), ("resnet20", 0.001)}
"""Of a probe head, networks and rates that were run first."""
FIRST_FRESH = "resnet14-cifar10 fashion normal features 0.01 48"
"""The run apart from a fresh head that was made first."""


def seen(row: dict[str, Any]) -> bool:
    """Whether a run apart had been looked at when the certificate and the rule of the surest were settled."""
    early = row["head"] == HEADS["probe"] and (row["network"], row["rate"]) in SEEN
    return early or row["key"] == FIRST_FRESH


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
