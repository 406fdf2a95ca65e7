"""What scores cost beside fine-tuning: LGC, LFC and LEEP of one model, all scores of a zoo, one real run.

    python benchmarks/scores.py [--task digits] [--models 30] [--per-class 25] [--epochs 30] [--rounds 5]

On the shipped zoo. First each score's pass over the sample alone, compiled, the least of several rounds; LGC
is the exact kernel of the last convolution. Then one fine-tuning of a shipped ResNet-14 by the paper's recipe on
all training images of the task: compiling, and 30 epochs as three of them took. Then `linft.rank` on that many
models in one new process, compiling included and shown apart: with LFC alone, with LGC alone, and with all scores
that are on by default. Deshpande and others 2021, Table 3, have 0.41 fine-tunings for LFC and 8.65 for LGC on 30
models.

Seconds are of processor time, all cores together, which other work on the machine disturbs less than it does the
clock; those of compiling are by the clock.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import jax
import numpy as np
import tyro

import linft
from linft.core import paper_recipes
from linft.core.base import Model
from linft.core.task import Task
from linft.scores.gather import gather
from linft.scores.table import SCORES, needs
from linft.zoo.load import shipped_models

MODEL = "resnet14-cifar10"
MEASURED = 3  # epochs
ZOO = "zoo"
"""The word by which a new process is told to rank."""


@dataclass(frozen=True)
class Options:
    """What is measured."""

    task: str = "digits"
    models: int = 30
    """Of the shipped ones."""
    per_class: int = 25
    """Images of the sample."""
    epochs: int = 30
    rounds: int = 5


def one_model(name: str, task: Task, rounds: int) -> dict[str, float]:
    """Seconds of each score with its pass, compiled; the scores take turns, so that all meet the same machine."""
    model = linft.load_model(name)
    scores = ("lfc", "lgc", "leep")
    runs: dict[str, Callable] = {score: lambda s=score: SCORES[s](gather(model, task, needs((s,)))) for score in scores}
    spent: dict[str, list[float]] = {score: [] for score in scores}
    for turn in range(rounds + 1):
        for score, run in runs.items():
            begin = time.process_time()
            run()
            if turn:  # the first compiles
                spent[score].append(time.process_time() - begin)
    return {score: min(each) for score, each in spent.items()}


def zoo(options: Options, scores: list[str] | None) -> dict[str, float]:
    """Seconds of a ranking in this process."""
    task = linft.load_task(options.task)
    begin = time.process_time()
    ranking = linft.rank(shipped_models()[: options.models], task, scores, per_class=options.per_class, resamples=0)
    spent = {part: sum(one.seconds.get(part, 0.0) for one in ranking.measured) for part in ("compile", "pass", "load")}
    own = {score: sum(one.seconds.get(score, 0.0) for one in ranking.measured) for score in ranking.scores}
    return {"all": time.process_time() - begin, **spent, **own}


def apart(options: Options, scores: list[str] | None) -> dict[str, float]:
    """The same in a new process, where nothing is compiled."""
    command = [sys.executable, __file__, ZOO, json.dumps([asdict(options), scores])]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def fine_tuning(model: Model, task: Task, epochs: int) -> float:
    """Seconds of one run of so many epochs, compiling included, from a run that compiles and one that does not."""
    n = len(task.y_train)
    recipe = paper_recipes.named("deshpande2021", n).recipe
    fresh = model.with_head(task.num_classes, jax.random.key(0))
    run = linft.finetune(fresh, task.subset(n, 10), record_every=10**6)
    spent = []
    for each in (1, MEASURED):
        begin = time.process_time()
        run(recipe.replace(epochs=each))
        spent.append(time.process_time() - begin)
    one_epoch = spent[1] / MEASURED
    return spent[0] + (epochs - 1) * one_epoch


def main(options: Options) -> None:
    """Measure and print."""
    task = linft.load_task(options.task)
    sample = task.max_per_class(options.per_class)
    print(f"{options.task}: {len(sample.y_train)} of {len(task.y_train)} images, on {jax.devices()[0].device_kind}")
    for name in (MODEL, "densenet22-cifar10"):
        spent = one_model(name, sample, options.rounds)
        text = ", ".join(f"{score} {1000 * each:.0f} ms" for score, each in spent.items())
        print(f"{name}, one pass and score: {text}; LGC {spent['lgc'] / spent['lfc']:.2f} times LFC", flush=True)
    seconds = fine_tuning(linft.load_model(MODEL), task, options.epochs)
    print(f"{MODEL}, one fine-tuning of {options.epochs} epochs: {seconds:.1f} s", flush=True)
    for what in (["lfc"], ["lgc"], None):
        spent = apart(options, what)
        shares = np.array([spent["all"], spent["compile"]]) / seconds
        own = ", ".join(f"{score} {each:.2f}" for score, each in spent.items() if score in SCORES and each > 0.05)
        print(
            f"{options.models} models, {' '.join(what) if what else 'all scores of one pass'}: {spent['all']:.1f} s, "
            f"{shares[0]:.2f} fine-tunings; compiling {spent['compile']:.1f} s ({shares[1]:.2f}), passes "
            f"{spent['pass']:.1f} s, reading {spent['load']:.1f} s; {own}",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == [ZOO]:
        settings, scores = json.loads(sys.argv[2])
        print(json.dumps(zoo(Options(**settings), scores)))
    else:
        main(tyro.cli(Options, description=__doc__))
