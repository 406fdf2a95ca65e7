"""`linft advise`: one recipe for a model and a task, predicted from the kernel, with reasons and doubts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import tyro

from linft.cli import config
from linft.cli.prediction_kernel import Kernel
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.workflows.advise import DEFAULT


@dataclass(frozen=True)
class Data:
    """Images of the task."""

    train_images: int | None = 256
    """Training images, drawn with the sample seed; None takes all."""
    test_images: int | None = 200
    """Test images, drawn with the sample seed; None takes all. Only --verify looks at them."""
    sample_seed: int = 0
    """Seed of the drawn images; --seed is that of new layers, folds and minibatches."""
    download: bool = False
    """Let tfds:NAME download what is not on disk."""


@dataclass(frozen=True)
class Head:
    """Weights to start from."""

    head: Literal["normal", "probe", "zeros"] = "normal"
    """The new head: random, the ridge solution on the training features, or zero."""
    head_scale: float = 0.01
    """Standard deviation of a random head."""


@dataclass(frozen=True)
class Advise:
    """Advise a recipe for fine-tuning a model on a task, without fine-tuning it.

    Measures how the pretrained features suit the task, applies the papers' findings, and searches what
    they leave in function space, by cross-validation on the training images. Writes advice.json and
    recipe.yaml, which `linft finetune --config` takes; an interrupted call goes on from what is computed.
    """

    model: str = "resnet14-cifar10"
    """A shipped model's name, hf:OWNER/NAME, or the path of a file of weights."""
    task: str = "digits"
    """digits, npz:PATH, folder:PATH, tfds:NAME or data:NAME."""
    budget: int | None = None
    """Training steps (updates) that the run may take; by default those of the recipe, 10 epochs."""
    verify: bool = False
    """Train the advised recipe and the default one, and measure both on the test images."""
    output: Path = Path("advice")
    """Directory for everything that is written."""
    data: Annotated[Data, tyro.conf.OmitArgPrefixes] = Data()
    start: Annotated[Head, tyro.conf.OmitArgPrefixes] = Head()
    kernel: Annotated[Kernel, tyro.conf.OmitArgPrefixes] = Kernel()
    shots: int = 25
    """Training images of each class, at most, that the scores see."""
    folds: int = 5
    """Of the cross-validation."""
    training: Annotated[Recipe, tyro.conf.OmitArgPrefixes] = DEFAULT
    """The default recipe: what the advice does not choose, and what it is held against."""

    @classmethod
    def parse(cls, arguments: Sequence[str], prog: str) -> Self:
        """The command, with the last of --steps and --epochs."""
        return tyro.cli(cls, args=config.last_of(arguments, "steps", "epochs"), prog=prog)

    def __call__(self) -> None:
        """Measure, search, write, tell; and train, where that is asked for."""
        if self.budget is not None and self.budget < 1:
            raise LinftError(f"--budget {self.budget} leaves nothing to train; give 1 step or more")
        from linft.cli.advise_steps import carry_out

        carry_out(self)
