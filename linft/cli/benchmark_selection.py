"""`linft benchmark-selection`: fine-tune a zoo on targets, and see which score would have picked the best."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from linft.core.errors import LinftError

if TYPE_CHECKING:
    from linft.workflows.benchmark.protocol import Protocol


@dataclass(frozen=True)
class BenchmarkSelection:
    """Hold scores of pretrained models against real fine-tuning of them all.

    Runs are added to OUTPUT/truth.jsonl as they end, and scores to OUTPUT/scores.jsonl; the same command goes
    on from there. Then OUTPUT/tables.md and figures tell of what is done for all models of a target.
    """

    tasks: tuple[str, ...]
    """Targets: digits, npz:PATH, folder:PATH, tfds:NAME or data:NAME."""
    names: tuple[str, ...] = ()
    """The targets' names as the zoo's sources have them, so that models that saw one are left out; the tasks' own."""
    output: Path = Path("selection")
    """Directory of the runs, scores, tables and figures."""
    zoo: Path | None = None
    """Directory of models; by default those that come with the package."""
    shots: tuple[int | Literal["full"], ...] = (5, 20, "full")
    """Training images of each class; full: all, up to --train-images, with the first rate and seed only."""
    steps: tuple[int, ...] = (40, 40, 60)
    """Updates of a run, for each of the shots."""
    batches: tuple[int, ...] = (16, 32, 32)
    """Images of an update, for each of the shots."""
    rates: tuple[float, ...] = (0.05, 0.02)
    """Learning rates; a model counts by its best."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the drawn images, the new head and the order."""
    train_images: int = 500
    """Training images of "full" at most."""
    test_images: int = 300
    """Test images at most."""
    scores: tuple[str, ...] = ("all",)
    """Scores to compare."""
    per_class: int = 25
    """At most so many of a run's training images of each class are scored on."""
    other_per_class: tuple[int, ...] = (10, 50, 500)
    """Other numbers, for the scores that cost one pass and the shots "full"."""
    reference: str = "resnet14-cifar10"
    """The expert that gains are over: what the paper's ImageNet expert is."""
    reference_domain: str = "multibn5-cifar10"
    """The same, among the domains of a multi-domain expert."""
    do: tuple[Literal["truth", "scores", "report"], ...] = ("truth", "scores", "report")
    """What to do; the report is of what is there."""
    jobs: Annotated[int, tyro.conf.arg(aliases=["-j"])] = 1
    """Processes that fine-tune at once."""

    def __call__(self) -> None:
        """Do what is missing, then write the tables and figures."""
        from functools import partial

        from rich.console import Console

        import linft
        from linft.cli.terminal import bars
        from linft.report.selection import ZooResult, write
        from linft.runtime import schema
        from linft.scores.table import DEFAULT, chosen
        from linft.workflows.benchmark.protocol import Protocol, Target
        from linft.workflows.benchmark.scored import SampleScores, samples, scored
        from linft.workflows.benchmark.selections import selections
        from linft.workflows.benchmark.truth import FinishedCase, cases, truth
        from linft.workflows.benchmark.zoos import zoos
        from linft.zoo.load import SHIPPED

        names = self.names or tuple(linft.load_task(task).name for task in self.tasks)
        if len(names) != len(self.tasks) or len(set(names)) < len(names):
            raise LinftError(
                f"{len(self.tasks)} tasks need as many different names; they are {', '.join(names)}; give --names"
            )
        targets = [Target(name, task) for name, task in zip(names, self.tasks, strict=True)]
        protocol = Protocol(
            self.shots, self.steps, self.batches, self.rates, self.seeds, self.train_images, self.test_images
        )
        zoo, (runs, lines) = self.zoo or SHIPPED, (self.output / name for name in ("truth.jsonl", "scores.jsonl"))
        planned, scores = cases(protocol, targets, zoo), chosen(self.scores)
        by_images = {n: samples(protocol, targets, n, ("full",)) for n in self.other_per_class if "full" in self.shots}
        console = Console()
        with bars(console) as progress:
            if "truth" in self.do:
                truth(planned, runs, self.jobs, partial(progress, "fine-tuning"))
            if "scores" in self.do:
                sampled = samples(protocol, targets, self.per_class)
                scored(sampled, zoo, scores, lines, self.jobs, partial(progress, "scores"))
                others = [sampled for some in by_images.values() for sampled in some]
                quick = [name for name in scores if name in DEFAULT]
                scored(others, zoo, quick, lines, self.jobs, partial(progress, "scores on fewer or more images"))
        if "report" not in self.do:
            return
        keys = {case.key for case in planned}
        ran = [row for row in schema.read_rows(runs, FinishedCase) if row.key in keys]
        known = {}
        for number in (self.per_class, *by_images):
            wanted = {sampled.key for sampled in samples(protocol, targets, number)}
            known[number] = [row for row in schema.read_rows(lines, SampleScores) if row.sample in wanted]
        results = [
            ZooResult(
                of,
                selections(ran, known[self.per_class], of.models),
                {
                    f"{number}": [c for c in selections(ran, known[number], of.models) if c.shots == "full"]
                    for number in sorted(known)
                },
            )
            for of in zoos(zoo, targets, self.reference, self.reference_domain)
        ]
        for path in write(results, _about(protocol, len(ran), len(planned)), self.output):
            console.print(f"{path}", soft_wrap=True)


def _about(protocol: "Protocol", ran: int, planned: int) -> str:
    """What was run, in a sentence or two."""
    each = ", ".join(
        f"{shots} ({steps} updates of {batch} images)"
        for shots, steps, batch in zip(protocol.shots, protocol.steps, protocol.batches, strict=True)
    )
    return (
        f"{ran} of {planned} fine-tunings are done: images a class {each}; rates {', '.join(map(str, protocol.rates))} "
        f"and seeds {', '.join(map(str, protocol.seeds))}, of “full” (at most {protocol.train_images} images) the "
        "first of each alone. Accuracies are those of a model's better rate, on at most "
        f"{protocol.test_images} test images. Gains and regrets are in points of accuracy. In brackets, where 95% of "
        "the bootstrap's draws of targets, and of seeds within them, lie.\n"
    )
