"""Seconds that a whole grid takes, predicted from one kernel, beside really training a few of its points.

    python benchmarks/sweep.py --model ../shared/weights/resnet20_cifar10_akamaster.safetensors
    python benchmarks/sweep.py --train-images 60 --test-images 40 --epochs 20      # a small one, to try it

The 120 points of Li and others 2020 (6 rates × 5 momenta × 4 decays) by their recipe (300 epochs, batches
of 256, batch norm in training mode, augmentation) on 500 digits, 10 classes, ResNet-20. Predicted: the
kernel of training and test images, then all points in one program, compilation included; the prediction
leaves out what no kernel follows, and says so. Really: the points named below, one after another, the
first of them after a run of two steps that compiles for all. The two take turns, a real point, the
prediction, the other real points, so that other work on the machine falls on both; a kernel and a
program are made anew. The whole grid's real time is 120 times the mean of the points that were run, of
which none diverged (those stop early), plus the compilation.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import linft
from linft import predict, recipes
from linft.depth import Depth
from linft.sweeps.grid import at, grid

REAL = (
    {"learning_rate": 0.01, "momentum": 0.9, "weight_decay": 1e-4},  # the paper's default
    {"learning_rate": 0.005, "momentum": 0.0, "weight_decay": 0.0},
    {"learning_rate": 0.001, "momentum": 0.95, "weight_decay": 1e-3},
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="a model's name or file; random weights by default")
    parser.add_argument("--architecture", default="cifar_resnet20", help="with random weights")
    parser.add_argument("--task", default="digits")
    parser.add_argument("--train-images", type=int, default=500)
    parser.add_argument("--test-images", type=int, default=200)
    parser.add_argument("--epochs", type=float, default=300)
    parser.add_argument("--real", type=int, default=len(REAL), choices=range(1, len(REAL) + 1), help="points to train")
    parser.add_argument("--output", type=Path, default=None, help="a JSON file for the numbers")
    return parser.parse_args()


def predicted(model: linft.Model, task: linft.Task, points: list[linft.Recipe]) -> dict[str, Any]:
    """All points from one kernel, everything made anew."""
    jax.clear_caches()
    begin = time.perf_counter()
    tangent = predict.tangent(model, task)
    jax.block_until_ready(tangent)
    kernel = time.perf_counter() - begin
    near, notes = zip(*(predict.nearest(recipe) for recipe in points), strict=True)
    runs = predict.dual(tangent).many(near)
    replay = time.perf_counter() - begin - kernel
    diverged = sum(run.diverged_at is not None for run in runs)
    return {"kernel": kernel, "replay": replay, "diverged": diverged, "dropped": sorted(set(notes))}


def main() -> None:
    options = arguments()
    task = linft.load_task(options.task).subset(options.train_images, options.test_images)
    key, classes = jax.random.key(0), task.num_classes
    model = (
        linft.models.create(options.architecture, classes, key)
        if options.model is None
        else linft.load_model(options.model)
    ).with_head(classes, key)
    n, names = len(task.y_train), tuple(model.layer_groups)
    base = recipes.named("li2020", n).recipe.replace(epochs=options.epochs)

    def recipe(values: dict[str, float]) -> linft.Recipe:
        return at(values, base, Depth(), names).recipe

    points = [recipe(values) for values in grid("li2020").points()]
    finetune = linft.finetune(model, task)
    begin = time.perf_counter()
    finetune(recipe(REAL[0]).replace(steps=2))
    compiling = time.perf_counter() - begin
    foretold, seconds = {}, []
    for i, values in enumerate(REAL[: options.real]):
        run = finetune(recipe(values))
        assert run.diverged_at is None, f"{values} diverged, so its time says nothing"
        seconds.append(run.seconds)
        print(f"really, {values}: {run.seconds:.1f} s, test accuracy {run.test_accuracy[-1]:.1%}", flush=True)
        if i == 0:
            foretold = predicted(model, task, points)
            finetune = linft.finetune(model, task)  # its program went with the caches
            finetune(recipe(REAL[0]).replace(steps=2))
    whole = compiling + len(points) * float(np.mean(seconds))
    total = foretold["kernel"] + foretold["replay"]
    result = {
        "model": model.name,
        "task": task.name,
        "train_images": n,
        "test_images": len(task.y_test),
        "classes": classes,
        "steps": base.num_steps(n),
        "batch_size": base.batch_size_for(n),
        "points": len(points),
        **{f"predicted_{name}": value for name, value in foretold.items()},
        "predicted_seconds": total,
        "real_compiling": compiling,
        "real_seconds": seconds,
        "real_seconds_of_the_grid": whole,
        "times_faster": whole / total,
        "machine": f"{platform.machine()}, {jax.default_backend()}: {jax.devices()[0].device_kind}",
    }
    print(f"predicted, {len(points)} points: kernel {foretold['kernel']:.1f} s, replay {foretold['replay']:.1f} s")
    print(f"really, {len(points)} points: {whole:.0f} s; {whole / total:.0f} times as long")
    if options.output is not None:
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
