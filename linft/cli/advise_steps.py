"""What `linft advise` does, step by step."""

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import jax
import yaml
from rich.console import Console

import linft
from linft.cli.advise import Advise
from linft.cli.progress import bars
from linft.cli.table import print_lines, print_table
from linft.core.layer_settings import LayerSettings
from linft.core.task import Task
from linft.data.lazy import in_memory
from linft.runtime.atomic_files import whole
from linft.runtime.json_files import write_json
from linft.workflows.advise.advise import FILE, Advice, advise, verify
from linft.workflows.advise.initialization import Initialization
from linft.workflows.advise.rules import effective_rates, safe

RECIPE = "recipe.yaml"


def carry_out(command: Advise) -> None:
    """Load, advise, write, tell; and train, where that is asked for."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout, force=True)
    logging.getLogger("linft").setLevel(logging.INFO)
    console, data = Console(), command.data
    task = linft.load_task(command.task, download=data.download)
    task = in_memory(task.subset(data.train_images or len(task.y_train), data.test_images, data.sample_seed))
    model = linft.load_model(command.model)
    steps = command.training.num_steps(len(task.y_train)) if command.budget is None else command.budget
    console.print(
        f"{model.name} → {task.name}: {len(task.y_train)} training images, a budget of {steps} steps of "
        f"{command.training.batch_size_for(len(task.y_train))}, on {jax.default_backend()}",
        soft_wrap=True,
    )
    with bars(console) as progress:
        found = advise(
            model,
            task,
            steps,
            default=command.training,
            start=Initialization(command.start.head, command.start.head_scale, command.training.seed),
            shots=command.shots,
            folds=command.folds,
            output=command.output,
            progress=progress,
            outputs=command.kernel.kernel,
            engine=command.kernel.engine,
            batch_size=command.kernel.kernel_batch,
        )
        write_options(command, found, task)
        tell(found)
        if command.verify:
            verified = verify(found, model, task, command.output, progress)
            write_json(command.output / FILE, found.as_json() | {"verified": verified})
            print_table(*runs_table(found, verified))
    print_lines([f"Written: {command.output / FILE}; train it with {training_command(command)}"])


def write_options(command: Advise, found: Advice, task: Task) -> None:
    """recipe.yaml: the run as `linft finetune` takes it."""
    data = command.data
    options: dict[str, Any] = {
        "task": command.task,
        "model": command.model,
        "head": command.start.head,
        "head_scale": command.start.head_scale,
        "train_images": len(task.y_train),
        "test_images": len(task.y_test),
        "sample_seed": data.sample_seed,
    }
    of_depth = {name: value for name, value in found.values.items() if name in asdict(LayerSettings())}
    recipe = json.loads(
        json.dumps(asdict(found.default.replace(**{k: v for k, v in found.values.items() if k not in of_depth})))
    )
    options |= {name: value for name, value in recipe.items() if value != []} | of_depth
    with whole(command.output / RECIPE) as partial:
        partial.write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")


def training_command(command: Advise) -> str:
    """What trains the advised recipe."""
    return f"linft finetune --config {command.output / RECIPE} --output DIR"


def tell(found: Advice) -> None:
    """The recipe beside the default one, why, its curve, and how sure it is."""
    print_table(*recipe_table(found))
    print_lines(reasons(found))
    print_table(*curve_table(found))
    print_lines(doubts(found))


def recipe_table(found: Advice) -> tuple[list[str], list[list[str]]]:
    """Every setting that was chosen, beside the default."""
    shown = {"reinit_groups": 1, **{name: getattr(found.default, name) for name in SETTINGS}, "low_rate": None,
             "low_groups": 0}  # fmt: skip
    rows = [
        [name.replace("_", " "), _text(found.values.get(name, before)), _text(before)] for name, before in shown.items()
    ]
    effective = [f"{recipe.learning_rate / (1 - recipe.momentum):.3g}" for recipe in (found.recipe, found.default)]
    return ["", "advised", "default"], [
        *rows,
        ["effective rate", *effective],
        ["steps", *[str(found.recipe.steps)] * 2],
    ]


SETTINGS = ("learning_rate", "momentum", "weight_decay", "l2sp")


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:g}"


def reasons(found: Advice) -> Iterator[str]:
    """What was measured, and which findings hold."""
    measures = found.measures
    scores = ", ".join(f"{name} {value:.3g}" for name, value in measures.scores.items())
    yield f"Measured on {measures.images} training images: {scores}."
    for name, reason in measures.undefined.items():
        yield f"{name} does not exist here: {reason}"
    if measures.gap is None:
        yield "Near or far to the source is unknown, so that no finding narrows the search."
    elif measures.similarity == "between":
        yield (
            f"Neither near nor far to the source: probe gap {measures.gap:+.1%} ± {measures.gap_error:.1%}; no finding "
            "narrows the search."
        )
    for rule in found.rules:
        yield f"Because {rule.condition}: {rule.consequence} ({rule.source})."
    of, steps = found.curvatures[found.reinit_groups], found.recipe.steps or 1
    rates = effective_rates(found.space, of, found.recipe, steps, safe(found.start, steps))
    yield (
        f"Kernel: λ1 = {of.largest:.3g}, worst minibatch {of.worst_batch:.3g}, condition {of.condition:.3g}. Half of "
        f"the residual is learnt within the budget at an effective rate of {of.learning(steps):.3g}; the edge of "
        f"stability is at {of.edge(found.recipe):.3g}; rates from {rates[0]:.3g} to {rates[-1]:.3g} were searched."
    )
    for note in found.searched.dropped:
        yield f"Not as the recipe says: {note}."


def curve_table(found: Advice) -> tuple[list[str], list[list[str]]]:
    """The predicted curve."""
    held = found.held_out
    rows = [
        [str(step), f"{loss:.3f}", f"{on_held:.3f}", f"{accuracy:.1%} ± {deviation:.1%}"]
        for step, loss, on_held, accuracy, deviation in zip(
            held["steps"], found.curve.train_loss, held["loss"], held["accuracy"], held["accuracy_deviation"],
            strict=False,
        )
    ]  # fmt: skip
    return ["step", "train loss", "held-out loss", "held-out accuracy"], rows


def doubts(found: Advice) -> Iterator[str]:
    """How sure it is."""
    sure, edge = found.certainty, found.certainty.edge
    gain = "" if sure.default_accuracy is None else f", the default recipe {sure.default_accuracy:.1%}"
    yield (
        f"Predicted accuracy on held-out training images {sure.accuracy:.1%} ± {sure.spread:.1%} over folds{gain}; "
        f"{sure.tied} of {sure.points} recipes cannot be told apart from the best, {sure.diverged} diverged."
    )
    h = max(edge.h, edge.worst_batch_h)
    yield (
        f"It is at {h / edge.limit:.2%} of the edge of stability at the start (h = {h:.3g}, limit {edge.limit:.3g}); "
        f"up to {safe(found.start, found.recipe.steps or 1):.1%} were searched, since real runs break before."
    )
    fell = "rises above its first value" if sure.fall is None else f"falls by {sure.fall:.0%}"
    error = (
        "how far such a curve is off was not measured"
        if sure.curve_error is None
        else f"of measured curves that fell as far three of four were off by up to {sure.curve_error:.1%}"
    )
    yield f"Linearization: the train loss {fell}; {error}; pretrained weights move by {sure.moved:.2%} of their length."


def runs_table(found: Advice, verified: dict[str, dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """What really came out, beside what was predicted."""
    predicted = {"advised": found.certainty.accuracy, "default": found.certainty.default_accuracy}

    def cells(name: str, run: dict[str, Any]) -> list[str]:
        before = "–" if predicted[name] is None else f"{predicted[name]:.1%}"
        if run["status"] != "finished":
            return [name, before, run["status"], "", ""]
        return [name, before, f"{run['accuracy']:.1%}", f"{run['loss']:.3f}", f"{run['seconds']:.1f}"]

    header = ["recipe", "predicted, held out", "test accuracy", "test loss", "seconds"]
    return header, [cells(name, run) for name, run in verified.items()]
