"""`linft pretrain-domains`: train one network on several source tasks, and put every domain into a zoo."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from linft.cli.options import PretrainingOptions, TaskOptions
from linft.core.errors import LinftError
from linft.core.recipe import Recipe


@dataclass(frozen=True)
class PretrainDomains:
    """Train one network on several tasks at once; every domain becomes a model of its own in a zoo.

    A step takes the batch size of every task. `shared` has all weights in common, `multi-bn` batch
    norms for each task, `adapter` also a 1×1 convolution beside each larger one, folded in at the end.
    """

    tasks: tuple[str, ...]
    """Source tasks: digits, npz:PATH, folder:PATH, tfds:NAME or data:NAME."""
    sharing: Literal["shared", "multi-bn", "adapter"] = "multi-bn"
    """What the domains have in common."""
    network: Annotated[PretrainingOptions, tyro.conf.OmitArgPrefixes] = PretrainingOptions()
    zoo: Path = Path("zoo")
    """Directory that the models are written to."""
    name: str | None = None
    """First part of the models' names; by default from the start and the sharing."""
    data: tuple[str, ...] = ()
    """Names of the source data sets; the tasks' by default."""
    citations: tuple[str, ...] = ()
    """Whom to cite for each task's data, in the same order."""
    download: bool = False
    """Let tfds:NAME download what is not on disk."""
    recipe: Annotated[Recipe, tyro.conf.OmitArgPrefixes] = Recipe(
        learning_rate=0.05,
        schedule="cosine",
        warmup_steps=50,
        weight_decay=5e-4,
        batch_size=16,
        steps=900,
        batch_norm="train",
        augmentation="crop",
    )

    def __call__(self) -> None:
        """Train, measure every domain, write its model."""
        from rich.console import Console

        import linft
        from linft.cli.terminal import bars
        from linft.training.multidomain import train_domains
        from linft.training.pretrain import measured, settings
        from linft.zoo.directory import unused

        self.network.check()
        console = Console()
        tasks = [TaskOptions(name, self.download).load() for name in self.tasks]
        data = self.data or tuple(task.name for task in tasks)
        if len(data) != len(tasks) or len(set(data)) < len(data):
            raise LinftError(
                f"{len(tasks)} tasks need as many different names; they are {', '.join(data)}; give --data"
            )
        citations = self.citations or ("",) * len(tasks)
        if len(citations) != len(tasks):
            raise LinftError(f"{len(tasks)} tasks need as many --citations, or none; {len(citations)} are given")
        first = self.name or f"{self.network.name}-{self.sharing}"
        paths = [unused(self.zoo, f"{first}-{name}") for name in data]
        model = self.network.initial_model(tasks[0], self.recipe.seed)
        with bars(console) as progress:
            domains = train_domains(
                model, tasks, self.recipe, self.sharing, lambda step, steps: progress(first, step, steps)
            )
        for domain, task, name, citation, path in zip(domains, tasks, data, citations, paths, strict=True):
            expert = measured(domain, task)
            source = {
                **expert.source,
                "data": name,
                "init": self.network.init and model.name,
                "sharing": self.sharing,
                "domains": list(data),
                "citation": citation,
                "recipe": settings(self.recipe),
            }
            linft.save_model(expert.replace(name=path.stem, source=source), path)
            console.print(
                f"{path.stem}: test accuracy {source['test_accuracy']:.1%}, "
                f"balanced {source['balanced_accuracy']:.1%}; {path}",
                soft_wrap=True,
            )
