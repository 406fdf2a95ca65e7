"""`linft pretrain`: train a network on a source task, from random weights or another model's, into a zoo."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from linft.cli.options import PretrainingOptions, TaskOptions, with_length
from linft.core.recipe import Recipe


@dataclass(frozen=True)
class Pretrain:
    """Train a registered architecture on a task and put it into a zoo, with all that selection needs later.

    By default batch norm is in training mode, 30 epochs. Beside the weights the file holds the source's
    classes, the recipe, the test accuracy (plain and balanced over classes) and every class's mean features.
    """

    task: Annotated[TaskOptions, tyro.conf.OmitArgPrefixes]
    network: Annotated[PretrainingOptions, tyro.conf.OmitArgPrefixes] = PretrainingOptions()
    zoo: Path = Path("zoo")
    """Directory that the model is written to."""
    name: str | None = None
    """Name of the model in the zoo; by default from the architecture, the task and the start."""
    data: str | None = None
    """Name of the source data set in the metadata; the task's by default."""
    citation: str = ""
    """Whom to cite for the data."""
    recipe: Annotated[Recipe, tyro.conf.OmitArgPrefixes] = Recipe(
        learning_rate=0.05,
        schedule="cosine",
        warmup_steps=50,
        weight_decay=5e-4,
        batch_size=32,
        batch_norm="train",
        augmentation="crop_flip",
    )

    def __call__(self) -> None:
        """Train, measure, write."""
        from rich.console import Console

        import linft
        from linft.cli.terminal import bars
        from linft.training.pretrain import pretrain
        from linft.zoo.directory import unused

        self.network.check()
        console = Console()
        recipe = with_length(self.recipe, epochs=30)
        task = self.task.load()
        data = self.data or task.name
        name = self.name or f"{self.network.name}-{data}"
        path = unused(self.zoo, name)
        model = self.network.initial_model(task, recipe.seed)
        with bars(console) as progress:
            expert = pretrain(model, task, recipe, lambda step, steps, loss: progress(name, step, steps))
        source = {**expert.source, "data": data, "init": self.network.init and model.name, "citation": self.citation}
        linft.save_model(expert.replace(name=name, source=source), path)
        console.print(
            f"{name}: test accuracy {source['test_accuracy']:.1%}, balanced {source['balanced_accuracy']:.1%}; {path}",
            soft_wrap=True,
        )
