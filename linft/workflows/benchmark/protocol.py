"""The protocol of the benchmark: its targets, the images of them, and how models are fine-tuned on these."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

from linft.core import paper_recipes
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.data.load import load_task

Shots = int | Literal["full"]
"""Training images of each class; or all there are, up to a limit."""


@dataclass(frozen=True)
class Target:
    """A task that models are chosen for."""

    name: str
    """As a zoo's sources name the data: models that saw it are left out."""
    task: str
    """As `load_task` takes it."""


@dataclass(frozen=True)
class Protocol:
    """Deshpande and others 2021, section 4.2, for small networks: their recipe for fewer steps, at higher rates.

    At 0.01 and 0.005, two of the paper's rates, networks with a fresh head are far from done after so few
    steps. All images of a target's training part, up to a limit, are used with the first rate and seed only.
    """

    shots: tuple[Shots, ...] = (5, 20, "full")
    """Training images of each class."""
    steps: tuple[int, ...] = (40, 40, 60)
    """Updates, for each of the shots."""
    batches: tuple[int, ...] = (16, 32, 32)
    """Images of an update, for each of the shots; all training images where there are fewer."""
    rates: tuple[float, ...] = (0.05, 0.02)
    """Learning rates; a model counts by its best."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the drawn images, of the new head, and of the order."""
    train_images: int = 500
    """The limit of "full"."""
    test_images: int = 300
    """Test images at most, the same for all runs."""

    def __post_init__(self):
        if not (len(self.shots) == len(self.steps) == len(self.batches) > 0 and self.rates and self.seeds):
            raise LinftError("give as many steps and batches as shots, and at least one of each, one rate and one seed")
        if len(set(self.shots)) < len(self.shots):
            raise LinftError(f"the shots {', '.join(map(str, self.shots))} name one twice")

    def recipe(self, shots: Shots, rate: float, seed: int) -> Recipe:
        """How a model is fine-tuned."""
        at = self.shots.index(shots)
        whole = paper_recipes.named("deshpande2021", self.train_images).recipe
        return whole.replace(learning_rate=rate, seed=seed, steps=self.steps[at], batch_size=self.batches[at])


@cache
def sample(target: Target, shots: Shots, seed: int, protocol: Protocol) -> Task:
    """The target's training images of a run, and its test images."""
    task = load_task(target.task)
    task = task.subset(len(task.y_train), min(protocol.test_images, len(task.y_test)))
    if shots == "full":
        return task.subset(min(protocol.train_images, len(task.y_train)), seed=seed)
    return task.few_shot(shots, seed)
