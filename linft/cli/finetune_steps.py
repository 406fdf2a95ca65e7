"""What `linft finetune` does, step by step."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from linft.cli.finetune import Finetune
from linft.cli.progress import steps_bar
from linft.cli.table import print_lines, print_table
from linft.core.base import Model
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.runtime import metrics_log
from linft.runtime.json_files import write_json
from linft.runtime.versions import versions
from linft.training.dry_run import plan
from linft.training.history import Track, Tracking
from linft.training.run_directory import RESULT, begin, run_in
from linft.training.validation import choose, ensemble, over_seeds


def carry_out(command: Finetune) -> None:
    """Load, then plan, or train once, or choose and train with every seed."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout, force=True)
    logging.getLogger("linft").setLevel(logging.INFO)
    console = Console(quiet=jax.process_index() > 0)
    task = command.load_task()
    model = command.model(task)
    recipe = command.depth.apply(command.training, model.layer_groups)
    console.print(
        f"{model.name} → {task.name}: {len(task.y_train)} training and {len(task.y_test)} test images, "
        f"{recipe.num_steps(len(task.y_train))} steps of {recipe.batch_size_for(len(task.y_train))}, "
        f"on {jax.device_count()} × {jax.default_backend()}",
        soft_wrap=True,
    )
    if command.writing.dry_run:
        _show(plan(command.started(model, task, recipe.seed), task, recipe, command.conduct().execution))
    elif command.choices.validation is None and len(command.seeds()) == 1:
        _once(command, console, model, task, recipe)
    else:
        _chosen(command, console, model, task, recipe)


def _once(command: Finetune, console: Console, model: Model, task: Task, recipe: Recipe) -> None:
    path, (seed,) = command.writing.output, command.seeds()
    opened = _tracking(command, console, path, recipe.num_steps(len(task.y_train)))
    done = run_in(
        path,
        command.started(model, task, seed),
        task,
        recipe.replace(seed=seed),
        config=command.resolved(),
        conduct=command.conduct(),
        tracking=opened,
    )
    final = done.result["final"]
    console.print(
        f"Test accuracy {final['accuracy']:.1%}, mean per class {final['mean_per_class_accuracy']:.1%}, "
        f"loss {final['loss']:.4f}, calibration error {final['calibration_error']:.1%}"
    )
    console.print(f"Results: {path}", soft_wrap=True)


def _chosen(command: Finetune, console: Console, model: Model, task: Task, recipe: Recipe) -> None:
    path, choices, config, conduct = command.writing.output, command.choices, command.resolved(), command.conduct()
    begin(path, config, {"weights": model.digest, "images": task.digest})

    def start(part: Task, seed: int) -> Model:
        return command.started(model, part, seed)

    def opened(directory: Path, steps: int) -> Tracking:
        return _tracking(command, console, directory, steps)

    result: dict[str, Any] = {"config": config, "versions": versions()}
    until = None
    if choices.validation is not None:
        rates = choices.learning_rates or (recipe.learning_rate,)
        choice = choose(path / "choice", start, task, recipe, rates, choices.validation, opened, config, conduct)
        recipe = recipe.replace(learning_rate=choice.rate)
        if choices.choose_epoch:
            until = max(1, round(choice.share * recipe.num_steps(len(task.y_train))))
        result["choice"] = {"learning_rate": choice.rate, "until": until, "tried": choice.tried}
        console.print(f"Learning rate {choice.rate:g}: validation accuracy {choice.accuracy:.1%}")
    finals, models = over_seeds(path, start, task, recipe, command.seeds(), opened, config, conduct, until)
    result |= {**finals, "ensemble": ensemble(models, task, crops=False)["ensemble"]}
    if choices.ten_crop:
        result["ten_crop"] = ensemble(models, task, crops=True)
    if jax.process_index() == 0:
        write_json(path / RESULT, result)
    spread = result["standard_deviation"]["accuracy"]
    console.print(
        f"Test accuracy {result['mean']['accuracy']:.2%}{'' if spread is None else f' ± {spread:.2%}'} over "
        f"{len(models)} seeds, of their ensemble {result['ensemble']['accuracy']:.2%}"
    )
    if choices.ten_crop:
        console.print(
            f"Ten crops: {result['ten_crop']['mean']['accuracy']:.2%}, "
            f"of the ensemble {result['ten_crop']['ensemble']['accuracy']:.2%}"
        )
    console.print(f"Results: {path}", soft_wrap=True)


def _tracking(command: Finetune, console: Console, path: Path, steps: int) -> Tracking:
    """Files and the terminal, of the first host only."""

    @contextmanager
    def opened(step: int | None) -> Iterator[Track]:
        if jax.process_index() > 0:
            yield lambda step, values: None
            return
        sinks, config = command.writing.log_to, command.resolved()
        with metrics_log.open(path, step, sinks, config) as write, steps_bar(console, path.name, steps) as show:

            def track(step: int, values: dict[str, float]) -> None:
                write(step, values)
                show(step, values)

            yield track

    return opened


def _show(planned: dict[str, Any]) -> None:
    rows = [
        [group, f"{row['parameters']:,}", f"{row['learning_rate']:g}", f"{row['decay']:g}", row["towards"]]
        for group, row in planned["groups"].items()
    ]
    print_table(["layer group", "parameters", "learning rate", "decay", "towards"], rows)
    shapes = {name: shape for row in planned["groups"].values() for name, shape in row["shapes"].items()}
    print_table(["parameter", "shape"], [[name, "×".join(map(str, shape))] for name, shape in shapes.items()])
    step = planned["step_memory"]
    print_lines(
        [
            f"{planned['parameters']:,} parameters, {planned['trained']:,} trained",
            f"{planned['steps']} steps of {planned['batch_size']} images, {planned['steps_per_epoch']} an epoch",
            f"memory: weights and optimizer {_megabytes(planned['state_memory'])}, "
            f"images {_megabytes(planned['images_memory'])}, a step {'unknown' if step is None else _megabytes(step)}",
            f"time: {planned['seconds_per_step']:.3f} s a step, {_duration(planned['seconds'])} in all, "
            "measurements and checkpoints apart",
        ]
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
