"""`linft sweep`: many recipes of one task, predicted from a kernel or really run, and a page that shows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import tyro

from linft.cli import config
from linft.cli.prediction_kernel import Kernel
from linft.core.errors import LinftError
from linft.core.layer_settings import LayerSettings
from linft.core.recipe import Recipe
from linft.workflows.sweep import grid as grids

FEATURES: dict[str, Literal["full", "trace", "low-rank"]] = {
    "features": "full",
    "features-trace": "trace",
    "features-low-rank": "low-rank",
}
"""Predictions with the head exact, by what is computed of the features' kernel; as `linft predict --how` has them."""
PREDICTED = ("dual", "spectral", *FEATURES)
SHOWN = 5  # of the best points, in the terminal


@dataclass(frozen=True)
class Points:
    """What is tried."""

    grid: str | None = None
    """li2020 (convention decoupled), l2sp or plested2021, with that paper's recipe; or a YAML file of settings."""
    vary: tuple[str, ...] = ()
    """Settings in place of a grid: learning_rate=0.1,0.01 momentum=0,0.9 weight_decay=log:1e-5:1e-2 …"""
    trials: int | None = None
    """How many points to draw, where a setting has a distribution, or to try by a search."""
    draw_seed: int = 0
    """Seed of the draw."""


@dataclass(frozen=True)
class Data:
    """Images of the task."""

    train_images: int | None = 256
    """Training images, drawn with the sample seed; None takes all."""
    test_images: int | None = 200
    """Test images, drawn with the sample seed; None takes all."""
    sample_seed: int = 0
    """Seed of the drawn images and of the new layers."""
    validation: float | None = None
    """Share of the training images held out and measured on, in place of the test images."""
    download: bool = False
    """Let tfds:NAME download what is not on disk."""


@dataclass(frozen=True)
class Start:
    """Weights to start from."""

    model: str = "resnet14-cifar10"
    """A shipped model's name, hf:OWNER/NAME, or the path of a file of weights."""
    head: Literal["normal", "probe", "zeros"] = "normal"
    """The new head: random, the ridge solution on the training features, or zero."""
    head_scale: float = 0.01
    """Standard deviation of a random head."""


@dataclass(frozen=True)
class Workers:
    """How real runs are shared: call the same command as often, and on as many machines, as you like."""

    storage: str | None = None
    """A journal file that all workers see, or a database's URL; OUTPUT/study.journal by default. Optuna's dashboard
    reads it."""
    search: Literal["grid", "tpe"] = "grid"
    """Every point, each once; or as many trials as asked for, by Optuna's tree of Parzen estimators."""
    prune: bool = False
    """End runs that are worse than the median of the others at the same step."""
    heartbeat: float = 10.0
    """Seconds between two signs of life of a worker."""
    timeout: float = 120.0
    """Seconds of silence after which another worker takes up its point."""


@dataclass(frozen=True)
class Output:
    """What is written."""

    output: Path = Path("sweep")
    """Directory for everything that is written; sweeps of the same points by other runs go into the same one."""
    record_every: int | None = None
    """Measure every so many steps; by default about a dozen times."""


@dataclass(frozen=True)
class Sweep:
    """Try a grid of recipes on a task: in function space from one kernel (dual, spectral), or by training.

    Writes a line a point to OUTPUT/BY.jsonl as they are found, sweep.json and sweep.html; the same command
    goes on after an interruption. Runs that train (linearized, finetune) are shared by all workers of one
    storage, each point run once.
    """

    task: str = "digits"
    """digits, npz:PATH, folder:PATH, tfds:NAME or data:NAME."""
    by: Literal[
        "dual", "spectral", "features", "features-trace", "features-low-rank", "linearized", "finetune"
    ] = "dual"  # fmt: skip
    """What runs a recipe: the replay in function space, from the network's kernel or from that of its features; the
    linearized or the real network in weights; or the closed form (full batch, squared error)."""
    named: Annotated[str | None, tyro.conf.arg(name="recipe")] = None
    """A paper's recipe, whose values other options override; a paper's grid brings its own."""
    config: Path | None = None
    """A YAML file of options, which those given here override."""
    trying: Annotated[Points, tyro.conf.OmitArgPrefixes] = Points()
    data: Annotated[Data, tyro.conf.OmitArgPrefixes] = Data()
    start: Annotated[Start, tyro.conf.OmitArgPrefixes] = Start()
    kernel: Annotated[Kernel, tyro.conf.OmitArgPrefixes] = Kernel()
    training: Annotated[Recipe, tyro.conf.OmitArgPrefixes] = Recipe(learning_rate=0.001, steps=40)
    depth: Annotated[LayerSettings, tyro.conf.OmitArgPrefixes] = LayerSettings()
    workers: Annotated[Workers, tyro.conf.OmitArgPrefixes] = Workers()
    writing: Annotated[Output, tyro.conf.OmitArgPrefixes] = Output()

    @classmethod
    def parse(cls, arguments: Sequence[str], prog: str) -> Self:
        """The command, with defaults from --grid or --recipe, and then --config."""
        from linft.core.paper_recipes import named

        arguments = config.last_of(config.expand(arguments), "steps", "epochs")
        of_grid = grids.RECIPES.get(config.value_of("grid", arguments) or "")
        recipe = config.value_of("recipe", arguments) or of_grid
        if recipe is None:
            return tyro.cli(cls, args=arguments, prog=prog)
        found = named(recipe, 1)
        return tyro.cli(cls, args=arguments, prog=prog, default=cls(training=found.recipe, depth=found.depth))

    def __call__(self) -> None:
        """Run what is missing, and say what was found."""
        self.check()
        from linft.cli.sweep_steps import carry_out

        carry_out(self)

    def check(self) -> None:
        """Refuse what cannot go together, before anything is loaded."""
        if (self.trying.grid is None) == (not self.trying.vary):
            raise LinftError("give --grid li2020 (or l2sp, plested2021, a YAML file), or --vary learning_rate=0.1,0.01")
        if self.by in FEATURES and self.kernel.kernel != "full":
            raise LinftError(f"--kernel {self.kernel.kernel} is of the network; give --by features-trace or another")
        chooses = self.workers.search == "tpe" or self.workers.prune
        if chooses and self.by in PREDICTED:
            raise LinftError(f"--by {self.by} predicts every point at once; leave out --search tpe and --prune")
        if chooses and self.data.validation is None:
            raise LinftError("a search and pruning choose by images that are held out; give --validation 0.2")

    def grid(self, groups: int) -> grids.Grid:
        """The grid for a model of so many layer groups."""
        trying = self.trying
        source = trying.grid if trying.grid is not None else grids.varied(trying.vary)
        return grids.grid(source, groups, trying.trials, trying.draw_seed)
