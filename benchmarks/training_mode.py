"""The derivative of batch norm's statistics: on all images for every direction, and for the leading ones only.

    python benchmarks/training_mode.py --data ../shared/data [--tasks digits hymenoptera_32]

The shipped ResNet-14 with a probe head, 80 images, 256 directions. Beside each number of directions that are
differentiated on all images (`in_training_mode(leading=…)`) stand the processor seconds of the derivative, without
compilation, over those of all 256; and by how much the train-loss curve changes that the kernel predicts, mean
|difference| / mean loss, 60 steps of 20 at a rate of 0.003 and of 0.001.
"""

from dataclasses import dataclass
from pathlib import Path
from time import process_time

import jax
import numpy as np
import tyro

import linft
from linft import predict
from linft.models.training_mode import RANK, in_training_mode

LEADING = (RANK, 64)


@dataclass(frozen=True)
class Options:
    """What is measured."""

    data: Path = Path("../shared/data")
    tasks: tuple[str, ...] = ("digits", "hymenoptera_32", "sign_digits_32")
    """digits, or files of the data directory."""
    images: int = 80


def main(options: Options) -> None:
    """One row a task and number of leading directions."""
    print(f"{'task':<16}{'on all images':>14}{'seconds':>9}{'ratio':>7}  change of the curve")
    for name in options.tasks:
        source = name if name == "digits" else f"npz:{options.data / name}.npz"
        task = linft.load_task(source).subset(options.images, options.images, seed=0)
        model = linft.load_model("resnet14-cifar10").with_head(
            task.num_classes, jax.random.key(0), init="probe", task=task
        )
        recipes = [
            linft.Recipe(learning_rate=rate, batch_size=20, steps=60, batch_norm="train") for rate in (0.003, 0.001)
        ]
        first = None
        for leading in LEADING:
            in_training_mode(model, task.x_train, rank=32, leading=16 if leading < RANK else 32)  # compiles
            begin = process_time()
            view = in_training_mode(model, task.x_train, leading=leading)
            seconds = process_time() - begin
            tangent = predict.tangent(view, task).replace(batch_norm="train")
            curves = [run.train_loss for run in predict.dual(tangent).many(recipes)]
            first = first or (seconds, curves)
            off = [np.abs(a - b).mean() / b.mean() for a, b in zip(curves, first[1], strict=True)]
            print(f"{name:<16}{leading:>14}{seconds:>9.0f}{seconds / first[0]:>7.2f}  "
                  + ", ".join(f"{change:.1%}" for change in off), flush=True)  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
