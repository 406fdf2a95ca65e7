"""What every experiment is told on its command line, where its data are and where its results go."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from linft.core.errors import LinftError

Scale = Literal["smoke", "laptop"]
Do = Literal["run", "report"]

FILES = {
    "hymenoptera": "hymenoptera_32",
    "ucmerced16": "ucmerced16_32",
    "sign_digits": "sign_digits_32",
    "fashion": "fashion_mnist_sprite_28",
    "cifar10": "cifar10_32",
    "gtsrb": "gtsrb_32",
    "mnist": "mnist_28",
    "omniglot": "omniglot_small_32",
    "imagenet_coarse": "imagenet_sample_coarse_32",
}
"""By the name of a task, its file in the directory of data sets; digits come with scikit-learn."""


@dataclass(frozen=True)
class Options:
    """The options of every experiment."""

    scale: Scale = "smoke"
    """smoke: seconds, to see that it runs; laptop: that of the results."""
    data: Path = Path("../shared/data")
    """Directory of the data sets."""
    output: Path = Path("experiments/results")
    """Directory of results: those of an experiment are in NAME/SCALE."""
    tasks: tuple[str, ...] = ()
    """Tasks to run, all by default: processes may run different ones at once, with --do run."""
    do: tuple[Do, ...] = ("run", "report")
    """run: what is missing, row by row; report: the tables and figures of what is there."""

    def directory(self, name: str) -> Path:
        """Where the results of an experiment are."""
        directory = self.output / name / self.scale
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def chosen(self, tasks: Iterable[str]) -> tuple[str, ...]:
        """Those of an experiment's tasks that are to be run."""
        known = tuple(dict.fromkeys(tasks))
        if unknown := [name for name in self.tasks if name not in known]:
            raise LinftError(f"no task is named {', '.join(unknown)}; they are {', '.join(known)}")
        return tuple(name for name in known if name in self.tasks or not self.tasks)

    def source(self, task: str) -> str:
        """A task as `linft.load_task` names it."""
        return task if task == "digits" else f"npz:{self.data / FILES[task]}.npz"
