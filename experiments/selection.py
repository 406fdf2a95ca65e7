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

from typing import Literal

import tyro
from options import Do, Options

from linft.cli.benchmark_selection import BenchmarkSelection

Part = Literal["truth", "scores", "report"]
PARTS: dict[Do, tuple[Part, ...]] = {"run": ("truth", "scores"), "report": ("report",)}
TARGETS = ("digits", "hymenoptera", "ucmerced16", "sign_digits", "fashion")


def command(options: Options) -> BenchmarkSelection:
    """smoke: a minute or two; laptop: six to seven hours of one CPU core, or minutes of a GPU."""
    names = options.chosen(TARGETS)
    tasks, output = tuple(map(options.source, names)), options.directory("selection")
    do: tuple[Part, ...] = tuple(part for of in options.do for part in PARTS[of])
    if options.scale == "laptop":
        return BenchmarkSelection(tasks, names, output, do=do)
    return BenchmarkSelection(
        tasks, names, output, shots=(2,), steps=(2,), batches=(4,), rates=(0.01,), seeds=(0,), do=do
    )


def main(options: Options) -> None:
    """Run what is missing, then draw the tables and figures of what is done."""
    command(options)()


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
