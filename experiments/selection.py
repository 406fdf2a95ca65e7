"""Which score picks the model that fine-tunes best?

    python experiments/selection.py --scale laptop --data ../shared/data

The shipped zoo (29 single-domain experts and the 5 domains of a Multi-BN expert) on five targets that at
least 30 of them never saw: every model is fine-tuned on 5 and 20 images a class (two rates, three seeds)
and on at most 500 images (one of each), then every score is held against what came out. An interrupted
call goes on from there. Writes truth.jsonl, scores.jsonl, tables.md and figures into
results/selection/SCALE. The runs there are of one NVIDIA H200 (7 minutes, fifteen processes), the scores of CPUs.
Expected: NCE, the generalization term, PARC, LGC and LEEP gain most (4 to 5 points by the best of three picks; chance
0.5), intervals overlapping; domain similarity, Fisher and H-score do worse than chance. What the paper
(Deshpande and others 2021) compares with, an ImageNet expert, is the CIFAR-10 one here: resnet14-cifar10.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import tyro

from linft.cli.benchmark_selection import BenchmarkSelection

TARGETS = {
    "digits": "digits",
    "hymenoptera": "npz:{data}/hymenoptera_32.npz",
    "ucmerced16": "npz:{data}/ucmerced16_32.npz",
    "sign_digits": "npz:{data}/sign_digits_32.npz",
    "fashion": "npz:{data}/fashion_mnist_sprite_28.npz",
}


def get_config(scale: Literal["smoke", "laptop"], data: Path, output: Path) -> BenchmarkSelection:
    """smoke: minutes, to see that it runs; laptop: six to seven hours of one CPU core, or minutes of a GPU."""
    if scale == "smoke":
        return BenchmarkSelection(
            tasks=("digits",), output=output / scale, shots=(2,), steps=(2,), batches=(4,), rates=(0.01,), seeds=(0,)
        )
    return BenchmarkSelection(
        tasks=tuple(task.format(data=data) for task in TARGETS.values()),
        names=tuple(TARGETS),
        output=output / scale,
    )


def main(
    scale: Literal["smoke", "laptop"] = "smoke",
    data: Path = Path("../shared/data"),
    output: Path = Path("experiments/results/selection"),
    do: tuple[Literal["truth", "scores", "report"], ...] = ("truth", "scores", "report"),
) -> None:
    """Run what is missing, then draw the tables and figures of what is done."""
    replace(get_config(scale, data, output), do=do)()


if __name__ == "__main__":
    tyro.cli(main)
