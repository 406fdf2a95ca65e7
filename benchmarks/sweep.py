"""Seconds that a whole grid takes, predicted from one kernel, beside really training a few of its points.

    python benchmarks/sweep.py --model ../shared/weights/resnet20_cifar10_akamaster.safetensors
    python benchmarks/sweep.py --train-images 64 --test-images 40 --epochs 20      # a small one, to try it

The 120 points of Li and others 2020 (6 rates × 5 momenta × 4 decays) by their recipe (300 epochs, batches
of 256, batch norm in training mode, augmentation) on 500 digits, 10 classes, ResNet-20. Predicted: the
kernel of training and test images, then all points in one program, compilation included; the prediction
leaves out what no kernel follows, and says so. Really: the points named below, one after another, the
first of them after a run of two steps that compiles for all. The two take turns, a real point, the
prediction, the other real points, so that other work on the machine falls on both; a kernel and a
program are made anew. Beside wall time is processor time, all cores together, which says more on a machine
that does other work. The whole grid's real time is 120 times the mean of the points that were run, of
which none diverged (those stop early), plus the compilation.
"""

import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from jaxtyping import Float

import linft
from linft import predict
from linft.core import paper_recipes
from linft.core.layer_settings import LayerSettings
from linft.workflows.sweep.grid import at, grid

Seconds = Float[np.ndarray, "2"]
"""Of wall and of processor time."""

REAL = (
    {"learning_rate": 0.01, "momentum": 0.9, "weight_decay": 1e-4},  # the paper's default
    {"learning_rate": 0.005, "momentum": 0.0, "weight_decay": 0.0},
    {"learning_rate": 0.001, "momentum": 0.95, "weight_decay": 1e-3},
)


@dataclass(frozen=True)
class Options:
    """What is predicted and trained."""

    model: str | None = None
    """A model's name or file; random weights by default."""
    architecture: str = "cifar_resnet20"
    """With random weights."""
    task: str = "digits"
    train_images: int = 500
    test_images: int = 200
    epochs: float = 300
    real: Literal[1, 2, 3] = 3
    """Points to train."""
    output: Path | None = None
    """File for the numbers, as JSON."""


def timed(run: Callable[[], Any]) -> tuple[Any, Seconds]:
    """What a function gives, and the wall and the processor time that it took."""
    wall, processor = time.perf_counter(), time.process_time()
    found = jax.block_until_ready(run())
    return found, np.array([time.perf_counter() - wall, time.process_time() - processor])


def predicted(model: linft.Model, task: linft.Task, points: list[linft.Recipe]) -> dict[str, Any]:
    """All points from one kernel, everything made anew."""
    jax.clear_caches()
    tangent, kernel = timed(lambda: predict.tangent(model, task))
    near, notes = zip(*(predict.nearest(recipe) for recipe in points), strict=True)
    runs, replay = timed(lambda: predict.dual(tangent).many(near))
    diverged = sum(run.diverged_at is not None for run in runs)
    return {"kernel": kernel, "replay": replay, "diverged": diverged, "dropped": sorted(set(notes))}


def told(seconds: Seconds) -> str:
    return f"{seconds[0]:.1f} s (processor {seconds[1]:.1f} s)"


def main(options: Options) -> None:
    """Measure and print."""
    task = linft.load_task(options.task).subset(options.train_images, options.test_images)
    key, classes = jax.random.key(0), task.num_classes
    model = (
        linft.models.create(options.architecture, classes, key)
        if options.model is None
        else linft.load_model(options.model)
    ).with_head(classes, key)
    n, names = len(task.y_train), tuple(model.layer_groups)
    base = paper_recipes.named("li2020", n).recipe.replace(epochs=options.epochs)

    def recipe(values: dict[str, float]) -> linft.Recipe:
        return at(values, base, LayerSettings(), names).recipe

    points = [recipe(values) for values in grid("li2020").points()]
    finetune = linft.finetune(model, task)
    short = recipe(REAL[0]).replace(steps=2)
    _, compiling = timed(partial(finetune, short))
    prediction: dict[str, Any] = {}
    seconds: list[Seconds] = []
    for i, values in enumerate(REAL[: options.real]):
        run, took = timed(partial(finetune, recipe(values)))
        assert run.diverged_at is None, f"{values} diverged, so its time says nothing"
        seconds.append(took)
        print(f"really, {values}: {told(took)}, test accuracy {run.test_accuracy[-1]:.1%}", flush=True)
        if i == 0:
            prediction = predicted(model, task, points)
            print(
                f"predicted, kernel: {told(prediction['kernel'])}; {len(points)} points: {told(prediction['replay'])}"
            )
            if options.real > 1:  # its program went with the caches
                finetune = linft.finetune(model, task)
                finetune(short)
    total, whole = prediction["kernel"] + prediction["replay"], compiling + len(points) * np.mean(seconds, axis=0)
    print(f"the whole grid: predicted {told(total)}, really {told(whole)}")
    print(f"times as long: {whole[0] / total[0]:.0f} (processor {whole[1] / total[1]:.0f})")
    result = {
        "model": model.name,
        "task": task.name,
        "train_images": n,
        "test_images": len(task.y_test),
        "classes": classes,
        "steps": base.num_steps(n),
        "batch_size": base.batch_size_for(n),
        "points": len(points),
        "predicted": prediction | {"all": total},
        "real": {"compiling": compiling, "points": seconds, "all": whole},
        "times_as_long": whole / total,
        "seconds": ["wall", "processor"],
        "machine": f"{platform.machine()}, {jax.default_backend()}: {jax.devices()[0].device_kind}",
    }
    if options.output is not None:
        options.output.write_text(json.dumps(result, indent=1, default=lambda x: x.tolist()) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
