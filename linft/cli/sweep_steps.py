"""What `linft sweep` does, step by step."""

import logging
import sys
from functools import partial
from typing import Any

import jax
from rich.console import Console

import linft
from linft import predict
from linft.cli.kernel import told
from linft.cli.sweep import FEATURES, PREDICTED, SHOWN, Sweep
from linft.cli.table import print_lines, print_table
from linft.core import recipe_fields
from linft.core.base import Model, Run, Tangent
from linft.core.task import Task
from linft.core.trees import digest
from linft.data.lazy import in_memory
from linft.models.linearize import linearize
from linft.models.reinitialize import with_new_layers
from linft.predict.tangent import kept
from linft.report.sweep import write
from linft.runtime.json_files import read_json
from linft.runtime.progress import Progress
from linft.training.finetune import finetune
from linft.training.optimizer import kernel_groups
from linft.workflows.sweep import result
from linft.workflows.sweep.grid import at
from linft.workflows.sweep.shared import Sharing, Watch
from linft.workflows.sweep.sweep import as_it_is, sweep


def carry_out(command: Sweep) -> None:
    """Load, run, write, tell."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout, force=True)
    logging.getLogger("linft").setLevel(logging.INFO)
    console = Console()
    task = load_task(command)
    model = linft.load_model(command.start.model)
    groups = tuple(model.layer_groups)
    chosen = command.grid(len(groups))
    n = len(task.y_train)
    console.print(
        f"{model.name} → {task.name}: {n} training and {len(task.y_test)} "
        f"{'test' if command.data.validation is None else 'held-out'} images, "
        f"{len(chosen.points()) if command.workers.search == 'grid' else chosen.trials} points, "
        f"by {command.by} on {jax.default_backend()}",
        soft_wrap=True,
    )
    watch = Watch() if command.workers.prune else None
    nearest = {
        **dict.fromkeys(("dual", *FEATURES), predict.nearest),
        "spectral": partial(recipe_fields.nearest, by="closed form", n=n),
        "linearized": partial(recipe_fields.nearest, by="linearized"),
        "finetune": as_it_is,
    }[command.by]
    with told(console) as progress:
        swept = sweep(
            lambda reinit_groups: make(command, model, task, reinit_groups, watch, progress),
            chosen,
            command.training,
            layer_groups=groups,
            depth=command.depth,
            nearest=nearest,
            sharing=sharing(command, watch),
            output=command.writing.output,
            by=name(command),
            described=described(command, model, task),
            progress=progress,
        )
    tell(command, console, swept)


def name(command: Sweep) -> str:
    """What a run is called in the output directory."""
    approximate = command.by in PREDICTED and command.kernel.kernel != "full"
    return f"{command.by}-{command.kernel.kernel}" if approximate else command.by


def load_task(command: Sweep) -> Task:
    """The task, as many images of it as are asked for; its test part is what is measured on."""
    data = command.data
    task = linft.load_task(command.task, download=data.download)
    task = in_memory(task.subset(data.train_images or len(task.y_train), data.test_images, data.sample_seed))
    return task if data.validation is None else task.holdout(data.validation, data.sample_seed)


def described(command: Sweep, model: Model, task: Task) -> dict[str, Any]:
    """What is known of model and task."""
    sizes = {"train_images": len(task.y_train), "test_images": len(task.y_test), "num_classes": task.num_classes}
    start = {"head": command.start.head, "head_scale": command.start.head_scale, "seed": command.data.sample_seed}
    return {
        "model": {"name": model.name, "digest": model.digest, "layer_groups": list(model.layer_groups), **start},
        "task": {"name": task.name, "digest": task.digest, "held_out": command.data.validation, **sizes},
        "record_every": command.writing.record_every,
    }


def sharing(command: Sweep, watch: Watch | None) -> Sharing | None:
    """How training is shared; predictions are not."""
    if command.by in PREDICTED:
        return None
    workers = command.workers
    storage = workers.storage or str(command.writing.output / "study.journal")
    return Sharing(storage, workers.search, watch, workers.heartbeat, workers.timeout)


def make(command: Sweep, model: Model, task: Task, reinit_groups: int, watch: Watch | None, progress: Progress) -> Run:
    """The run that starts with so many new layer groups."""
    every, start = command.writing.record_every, command.start
    started = with_new_layers(model, task, command.data.sample_seed, reinit_groups, start.head, start.head_scale)
    if command.by in FEATURES:
        of_features = predict.feature_tangent(
            started, task, outputs=FEATURES[command.by], **options(command, model, reinit_groups, progress)
        )
        return predict.feature_dual(of_features, record_every=every)
    if command.by in PREDICTED:
        found = tangent(command, started, task, reinit_groups, progress)
        return (predict.dual if command.by == "dual" else predict.spectral)(found, record_every=every)
    network = linearize(started) if command.by == "linearized" else started
    return finetune(network, task, record_every=every, tracking=watch)


def tangent(command: Sweep, model: Model, task: Task, reinit_groups: int, progress: Progress) -> Tangent:
    """The kernel of a start, on disk once it has been computed."""
    given, outputs = options(command, model, reinit_groups, progress), command.kernel.kernel
    finer = "" if given["groups"] == model.stages else f"-{digest(tuple(given['groups']))[:8]}"
    kind = f"{outputs}{finer}-{reinit_groups}"
    return kept(
        command.writing.output / f"tangent-{kind}.safetensors",
        lambda: predict.tangent(model, task, outputs=outputs, **given),
    )


def options(command: Sweep, model: Model, reinit_groups: int, progress: Progress) -> dict[str, Any]:
    """How a kernel is computed: by stages, and by as many groups more as the recipes tell apart."""
    names = tuple(model.layer_groups)
    recipes = [at(v, command.training, command.depth, names).recipe for v in command.grid(len(names)).points()]
    what = "kernel" if reinit_groups == 1 else f"kernel {reinit_groups}"
    return {
        "groups": kernel_groups(model.layer_groups, *recipes),
        "engine": command.kernel.engine,
        "batch_size": command.kernel.kernel_batch,
        "progress": lambda done, total: progress(what, done, total),
    }


def tell(command: Sweep, console: Console, swept: result.Sweep) -> None:
    """The best points, what became of the others, and what was dropped."""
    finished = [row for row in swept.rows if row["status"] == "finished"]
    best = sorted(finished, key=lambda row: (-row["test_accuracy"], row["test_loss"]))[:SHOWN]
    part = "test" if command.data.validation is None else "held-out"
    if best:
        names = list(dict.fromkeys(setting for row in best for setting in row["values"]))
        print_table(
            [*(setting.replace("_", " ") for setting in names), f"{part} accuracy", f"{part} loss", "train loss"],
            [
                [f"{row['values'].get(setting, '')}" for setting in names]
                + [f"{row['test_accuracy']:.1%}", f"{row['test_loss']:.3f}", f"{row['train_loss']:.3f}"]
                for row in best
            ],
        )
    counts = {status: sum(row["status"] == status for row in swept.rows) for status in result.STATUSES}
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    lines = [f"{len(swept.rows)} points: {told}."]
    reasons = dict.fromkeys(row["reason"] for row in swept.rows if row["status"] in ("refused", "failed"))
    lines += [f"Not run: {reason}." for reason in reasons]
    lines += [f"Not as the recipe says: {note}." for note in swept.dropped]
    print_lines(lines)
    page = write(read_json(command.writing.output / result.FILE), command.writing.output)
    console.print(f"Report: {page}", soft_wrap=True)
