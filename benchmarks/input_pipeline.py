"""Images a second of the input pipeline alone, of the training step alone, and of both together.

    python benchmarks/input_pipeline.py --images DIR [--workers 4] [--size 224] [--output FILE.json]

DIR holds photographs in a subfolder for each class. They are streamed from their files, however few
they are; a small task lives on the device, as in `linft.finetune`. The idle share is that of the
time in which no training step runs: 1 − (time of the steps alone) / (time of reading and training).
On a CPU the two share the cores, so there it is also what reading takes from the steps; and on a
machine with other work it is noise, where the time spent waiting for batches is not. Every part is
the quickest of several rounds, taken in turns. Compiling is left out, and so is the first batch,
for which processes start; the wait for it has a column.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import count, cycle
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from linft import Recipe, Task, load_task
from linft.core.base import Model
from linft.core.preprocessing import Preprocessing
from linft.data import lazy
from linft.data.augment import AUGMENTATIONS
from linft.data.stream import Batch
from linft.models import create
from linft.training.batches import feed
from linft.training.step import Execution, begin_training, steps_per_call

ROUNDS = 3
CALLS = 8  # of the compiled step, a round
TINY = ("cifar_resnet8", {"width": 4})


@dataclass(frozen=True)
class Paces:
    """Paces of one task and network, in images a second."""

    name: str
    pipeline: float
    steps: float
    both: float
    idle_share: float
    waiting_share: float
    """Of the time of both, spent by the host in waiting for a batch; the device may be at work meanwhile."""
    first_batch_seconds: float


def measured(name: str, model: Model, task: Task, recipe: Recipe, workers: int = 0) -> Paces:
    """One row of the table."""
    n, execution = len(task.y_train), Execution()
    recipe = recipe.replace(steps=4 * CALLS * steps_per_call())
    source = feed(model, task, AUGMENTATIONS[recipe.augmentation].canvas, execution, workers)

    def train(batches: Iterable[Batch]) -> tuple[float, float, float]:
        state, advance = begin_training(model, recipe, n, execution)

        def step(batch: Batch) -> Any:
            nonlocal state
            state = advance(state, batch, source.held)[0]
            return state

        return paced(batches, step)

    def read(calls: int = CALLS) -> Iterable[Batch]:
        return source.batches(recipe.order(n), 0, [calls * steps_per_call()])

    def alone() -> tuple[float, float, float]:
        return paced(read(4 * CALLS), lambda batch: batch, skip=CALLS)  # by when what was read ahead is used up

    kept = [jax.device_put(batch) for batch, _ in zip(read(), range(2), strict=False)]
    held = [batch for batch, _ in zip(cycle(kept), read(), strict=False)]
    train(held)  # compiles
    rounds = [(alone(), train(held), train(read())) for _ in range(ROUNDS)]
    (first, pipeline, _), (_, steps, _), (_, both, waiting) = np.min(rounds, axis=0).tolist()
    return Paces(name, 1 / pipeline, 1 / steps, 1 / both, max(0.0, 1 - steps / both), waiting, first)


def paced(batches: Iterable[Batch], use: Callable[[Batch], Any], skip: int = 1) -> tuple[float, float, float]:
    """Seconds until the first batch; after a few more, seconds an image, and the share spent waiting for batches."""
    begun = clock = time.perf_counter()
    first = waited = 0.0
    images, result, remaining = 0, None, iter(batches)
    for number in count():
        asked = time.perf_counter()
        if (batch := next(remaining, None)) is None:
            break
        came = time.perf_counter()
        first = first or came - begun
        result = use(batch)
        if number < skip:
            jax.block_until_ready(result)
            clock = time.perf_counter()
        else:
            waited, images = waited + came - asked, images + batch.index.size
    jax.block_until_ready(result)
    seconds = time.perf_counter() - clock
    return first, seconds / images, waited / seconds


def machine() -> dict[str, Any]:
    """Where and with what the numbers were taken."""
    device = jax.devices()[0]
    return {
        "device": f"{jax.device_count()} × {device.device_kind}",
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("linft", "jax", "grain", "numpy", "pillow")},
    }


def main(
    images: Path | None = None,
    workers: int = 0,
    size: int = 224,
    batch_size: int = 32,
    network: str | None = None,
    augmentation: str = "resized_crop",
    task: str = "digits",
    output: Path | None = None,
) -> None:
    """Print the table.

    Args:
      images: folder of photographs; without it they are left out.
      workers: processes that read photographs; 0 reads them by threads.
      size: the network's input, of photographs.
      batch_size: of photographs.
      network: that photographs train; by default a tiny one, so that the pipeline is what is measured.
      augmentation: of photographs.
      task: a small one, which ResNet-20 is trained on at 32×32 with batches of 128.
      output: file for the numbers, as JSON.
    """
    where, key = machine(), jax.random.key(0)
    small = load_task(task)
    recipe = Recipe(learning_rate=0.01, batch_size=128, augmentation="crop_flip", batch_norm="train")
    model = create("cifar_resnet20", small.num_classes, key)
    rows = [measured(f"{small.name} on the device, 32×32, cifar_resnet20, batch 128", model, small, recipe)]
    if images is None:
        print("photographs are left out: give a folder of them by --images")
    else:
        lazy.IN_MEMORY = 0
        photos = load_task(f"folder:{images}")
        recipe = recipe.replace(batch_size=batch_size, augmentation=augmentation)
        architecture, options = (network, {}) if network else TINY
        model = create(architecture, photos.num_classes, key, Preprocessing((size, size, 3)), **options)
        readers = f"{workers} processes" if workers else "threads"
        title = f"{photos.name} streamed by {readers}, {size}×{size}, {network or 'a tiny network'}, batch {batch_size}"
        rows.append(measured(title, model, photos, recipe, workers))

    table = Table(
        "images a second", "pipeline", "steps", "both", "idle share", "waiting", "first batch", title=where["device"]
    )
    for row in rows:
        paces = (f"{pace:,.0f}" for pace in (row.pipeline, row.steps, row.both))
        table.add_row(
            row.name, *paces, f"{row.idle_share:.1%}", f"{row.waiting_share:.3%}", f"{row.first_batch_seconds:.2f} s"
        )
    Console().print(table)
    if output is not None:
        output.write_text(json.dumps({"machine": where, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
