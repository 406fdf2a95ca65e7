"""`linft pretrain`: train a network on a source task, from random weights or another model's, into a zoo."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from linft.core.errors import LinftError
from linft.core.recipe import Recipe


@dataclass(frozen=True)
class Pretrain:
    """Train a registered architecture on a task and put it into a zoo, with all that selection needs later.

    By default batch norm is in training mode, 30 epochs. Beside the weights the file holds the source's
    classes, the recipe, the test accuracy (plain and balanced over classes) and every class's mean features.
    """

    task: str
    """Source task: digits, npz:PATH, folder:PATH, tfds:NAME or data:NAME."""
    model: str | None = None
    """Architecture to start at random weights; `linft zoo list --architectures` names them."""
    init: str | None = None
    """A model to start from, with a new head, instead of an architecture: a shipped one's name or a file."""
    options: dict[str, int] = field(default_factory=dict)
    """Options of the architecture, such as `growth 6 width 12`."""
    zoo: Path = Path("zoo")
    """Directory that the model is written to."""
    name: str | None = None
    """Name of the model in the zoo; by default from the architecture, the task and the start."""
    data: str | None = None
    """Name of the source data set in the metadata; the task's by default."""
    citation: str = ""
    """Whom to cite for the data."""
    download: bool = False
    """Let tfds:NAME download what is not on disk."""
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
        from linft.cli.progress import bars
        from linft.training.pretrain import pretrain, start
        from linft.zoo.directory import unused

        if (self.model is None) == (self.init is None):
            raise LinftError("give either --model (an architecture, at random weights) or --init (a model)")
        console = Console()
        recipe = self.recipe if self.recipe.steps or self.recipe.epochs else self.recipe.replace(epochs=30)
        task = linft.load_task(self.task, download=self.download)
        data = self.data or task.name
        name = self.name or "-".join((self.model or Path(str(self.init)).stem, data))
        path = unused(self.zoo, name)
        model = start(task, self.model, self.init, self.options, recipe.seed)
        with bars(console) as progress:
            expert = pretrain(model, task, recipe, lambda step, steps, loss: progress(name, step, steps))
        source = {**expert.source, "data": data, "init": self.init and model.name, "citation": self.citation}
        linft.save_model(expert.replace(name=name, source=source), path)
        console.print(
            f"{name}: test accuracy {source['test_accuracy']:.1%}, balanced {source['balanced_accuracy']:.1%}; {path}",
            soft_wrap=True,
        )
