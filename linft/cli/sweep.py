"""`linft sweep`: many recipes of one task, predicted from a kernel or really run, and a page that shows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import tyro

from linft.cli import config
from linft.cli.draws import check_draws
from linft.cli.options import ImageOptions, KernelOptions, ModelOptions, OutputOptions, TaskOptions
from linft.core.errors import LinftError
from linft.core.layer_settings import LayerSettings
from linft.core.recipe import Recipe
from linft.workflows.sweep import grid as grids

if TYPE_CHECKING:
    from rich.console import Console

    from linft.core.base import Model, Run, Tangent
    from linft.core.task import Task
    from linft.runtime.progress import Progress
    from linft.workflows.sweep import result
    from linft.workflows.sweep.shared import Sharing, Watch
    from linft.workflows.sweep.sweep import FindEdge

FEATURES: dict[str, Literal["full", "trace", "low-rank"]] = {
    "features": "full",
    "features-trace": "trace",
    "features-low-rank": "low-rank",
}
"""Predictions with the head exact, by what is computed of the features' kernel; as `linft predict --how` has them."""
MOVING: dict[str, Literal["network", "features"]] = {"moving": "network", "moving-features": "features"}
"""Predictions whose kernel moves along the path of a recipe, by what is linearized."""
EXPLICIT: dict[str, Literal["network", "features"]] = {"explicit": "network", "explicit-features": "features"}
"""Predictions by the Jacobian itself, likewise."""
PREDICTED = ("dual", "spectral", *FEATURES, *MOVING, *EXPLICIT)
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
class SweepRecipes:
    """Try a grid of recipes on a task: in function space from one kernel (dual, spectral), or by training.

    Writes a line a point to OUTPUT/BY.jsonl as they are found, sweep.json and sweep.html; the same command
    goes on after an interruption. Runs that train (linearized, finetune) are shared by all workers of one
    storage, each point run once.
    """

    by: Literal[
        "dual", "spectral", "features", "features-trace", "features-low-rank", "moving", "moving-features",
        "explicit", "explicit-features", "linearized", "finetune",
    ] = "dual"  # fmt: skip
    """What runs a recipe: the replay in function space, from the network's kernel or that of its features, fixed or
    moving along a predicted path (shared by recipes that say that they hold on it; Adam too); the closed form (full
    batch and squared error); the Jacobian itself, which follows Adam too; or the linearized or the real network,
    trained."""
    named: Annotated[str | None, tyro.conf.arg(name="recipe")] = None
    """A paper's recipe, whose values other options override; a paper's grid brings its own."""
    config: Path | None = None
    """A YAML file of options, which those given here override."""
    draws: int = 0
    """Follow augmentation and mixup by so many draws of every training image, the same for all points, at as many times
    the Jacobians; 0 leaves both out of what predictions follow."""
    edge: bool = False
    """Also find how the loss sharpens along the predicted path, and take no point for the best whose rate goes far
    above the edge of stability there. Of frozen batch norm."""
    validation: float | None = None
    """Share of the training images held out and measured on, in place of the test images."""
    trying: Annotated[Points, tyro.conf.OmitArgPrefixes] = Points()
    task: Annotated[TaskOptions, tyro.conf.OmitArgPrefixes] = TaskOptions("digits")
    images: Annotated[ImageOptions, tyro.conf.OmitArgPrefixes] = ImageOptions(256, 200)
    model: Annotated[ModelOptions, tyro.conf.OmitArgPrefixes] = ModelOptions()
    kernel: Annotated[KernelOptions, tyro.conf.OmitArgPrefixes] = KernelOptions()
    training: Annotated[Recipe, tyro.conf.OmitArgPrefixes] = Recipe(learning_rate=0.001, steps=40)
    depth: Annotated[LayerSettings, tyro.conf.OmitArgPrefixes] = LayerSettings()
    workers: Annotated[Workers, tyro.conf.OmitArgPrefixes] = Workers()
    writing: Annotated[OutputOptions, tyro.conf.OmitArgPrefixes] = OutputOptions(Path("sweep"))

    @classmethod
    def parse(cls, arguments: Sequence[str], prog: str) -> Self:
        """The command, with defaults from --grid or --recipe, and then --config."""
        from linft.core.paper_recipes import named

        if sum(word.partition("=")[0] == "--vary" for word in arguments) > 1:  # the last would count
            raise LinftError(
                "--vary is given twice; give all settings after one: --vary learning_rate=0.1,0.01 momentum=0"
            )
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
        import jax

        from linft import predict
        from linft.cli.terminal import counts, terminal
        from linft.core import recipe_fields
        from linft.predict.tangent import mode
        from linft.workflows.sweep.shared import Watch
        from linft.workflows.sweep.sweep import as_it_is, sweep

        console = terminal()
        task = self.load_task()
        model = self.model.load()
        groups = tuple(model.layer_groups)
        chosen = self.grid(len(groups))
        if self.draws:
            check_draws(recipes(self, groups), self.edge)
        n = len(task.y_train)
        console.print(
            f"{model.name} → {task.name}: {n} training and {len(task.y_test)} "
            f"{'test' if self.validation is None else 'held-out'} images, "
            f"{len(chosen.points()) if self.workers.search == 'grid' else chosen.trials} points, "
            f"by {self.by} on {jax.default_backend()}",
            soft_wrap=True,
        )
        watch = Watch() if self.workers.prune else None
        by: dict[str, recipe_fields.By] = {
            "spectral": "closed form",
            "linearized": "linearized",
            **dict.fromkeys((*MOVING, *EXPLICIT), "Jacobian"),
        }
        means = "Jacobian" if self.by in (*MOVING, *EXPLICIT) else "kernel"

        def nearest(recipe: Recipe) -> tuple[Recipe, str]:
            if self.draws:
                return predict.nearest(recipe, mode(model, recipe), means, from_draws=True)
            return recipe_fields.nearest(recipe, by.get(self.by, "kernel"), n, mode(model, recipe))

        with counts(console) as progress:
            swept = sweep(
                lambda point: make(self, model, task, point, watch, progress),
                chosen,
                self.training,
                layer_groups=groups,
                depth=self.depth,
                nearest=as_it_is if self.by == "finetune" else nearest,
                sharing=sharing(self, watch),
                output=self.writing.output,
                by=name(self),
                described=described(self, model, task),
                edge=edges(self, model, task, progress) if self.edge else None,
                progress=progress,
            )
        tell(self, console, swept)

    def check(self) -> None:
        """Refuse what cannot go together, before anything is loaded."""
        if (self.trying.grid is None) == (not self.trying.vary):
            raise LinftError("give --grid li2020 (or l2sp, plested2021, a YAML file), or --vary learning_rate=0.1,0.01")
        if self.by in (*FEATURES, "moving-features", *EXPLICIT) and self.kernel.kernel != "full":
            raise LinftError(f"--kernel {self.kernel.kernel} is of the network; give --by features-trace or another")
        if self.draws and (self.by not in PREDICTED or self.by == "spectral"):
            raise LinftError(f"--by {self.by} does not follow draws of the images; leave out --draws")
        if self.edge:
            from linft.predict.sharpening import why_no_edge

            if reason := why_no_edge(self.training):
                raise LinftError(f"leave out --edge: {reason}")
        chooses = self.workers.search == "tpe" or self.workers.prune
        if chooses and self.by in PREDICTED:
            raise LinftError(f"--by {self.by} predicts every point at once; leave out --search tpe and --prune")
        if chooses and self.validation is None:
            raise LinftError("a search and pruning choose by images that are held out; give --validation 0.2")

    def grid(self, groups: int) -> grids.Grid:
        """The grid for a model of so many layer groups."""
        trying = self.trying
        source = trying.grid if trying.grid is not None else grids.varied(trying.vary)
        return grids.grid(source, groups, trying.trials, trying.draw_seed)

    def load_task(self) -> "Task":
        """The task, as many images of it as are asked for; its test part is what is measured on."""
        task = self.images.read(self.task.load())
        return task if self.validation is None else task.holdout(self.validation, self.images.sample_seed)


def name(command: SweepRecipes) -> str:
    """What a run is called in the output directory."""
    whole = command.by not in PREDICTED or command.kernel.kernel == "full"
    by = command.by if whole else f"{command.by}-{command.kernel.kernel}"
    return f"{by}-{command.draws}-draws" if command.draws else by


def recipes(command: SweepRecipes, groups: tuple[str, ...]) -> list[Recipe]:
    """Of every point, for a model of such layer groups."""
    return [grids.at(v, command.training, command.depth, groups).recipe for v in command.grid(len(groups)).points()]


def met(command: SweepRecipes, model: "Model", task: "Task") -> "Task":
    """What predictions train on: the task, or draws of its images, by the minibatches of the first point."""
    from linft import predict

    groups, draws = tuple(model.layer_groups), command.draws
    return predict.augmented(model, task, recipes(command, groups)[0], draws) if draws else task


def described(command: SweepRecipes, model: "Model", task: "Task") -> dict[str, Any]:
    """What is known of model and task."""
    sizes = {"train_images": len(task.y_train), "test_images": len(task.y_test), "num_classes": task.num_classes}
    start = {"head": command.model.head, "head_scale": command.model.head_scale, "seed": command.images.sample_seed}
    return {
        "model": {"name": model.name, "digest": model.digest, "layer_groups": list(model.layer_groups), **start},
        "task": {"name": task.name, "digest": task.digest, "held_out": command.validation, **sizes},
        "record_every": command.writing.record_every,
        **({"edge": True} if command.edge else {}),
    }


def sharing(command: SweepRecipes, watch: "Watch | None") -> "Sharing | None":
    """How training is shared; predictions are not."""
    from linft.workflows.sweep.shared import Sharing

    if command.by in PREDICTED:
        return None
    workers = command.workers
    storage = workers.storage or str(command.writing.output / "study.journal")
    return Sharing(storage, workers.search, watch, workers.heartbeat, workers.timeout)


def make(
    command: SweepRecipes, model: "Model", task: "Task", point: grids.Point, watch: "Watch | None", progress: "Progress"
) -> "Run":
    """The run of a point's start."""
    from linft import predict
    from linft.core.base import OneByOne
    from linft.models.linearize import linearize
    from linft.predict.moving import SharedPaths
    from linft.predict.tangent import mode
    from linft.training.finetune import finetune

    every = command.writing.record_every
    started = command.model.with_new_layers(model, task, command.images.sample_seed, point.reinit_groups)
    batch_norm, drawn = mode(started, point.recipe), met(command, started, task)
    if command.by in FEATURES:
        computed: dict[str, Any] = options(command, model, point, progress) | {"outputs": FEATURES[command.by]}
        of_features = predict.feature_tangent(started, drawn, batch_norm=batch_norm, **computed)
        return predict.feature_dual(of_features, record_every=every)
    if command.by in MOVING:
        moving = predict.moving(
            started,
            drawn,
            at=MOVING[command.by],
            outputs=command.kernel.kernel,
            batch_norm=batch_norm,
            batch_size=command.kernel.kernel_batch,
            record_every=every,
        )
        return OneByOne(SharedPaths(moving))  # whose rows are kept as they are found
    if command.by in EXPLICIT:
        return predict.explicit(
            started,
            drawn,
            at=EXPLICIT[command.by],
            batch_norm=batch_norm,
            batch_size=command.kernel.kernel_batch,
            record_every=every,
            progress=lambda done, total: progress("Jacobian", done, total),
        )
    if command.by in PREDICTED:
        found = tangent(command, started, drawn, point, progress)
        return (predict.dual if command.by == "dual" else predict.spectral)(found, record_every=every)
    if command.by == "linearized":
        started = linearize(started, batch_norm="frozen" if started.forward_train is None else "train")
    return finetune(started, task, record_every=every, tracking=watch)


def edges(command: SweepRecipes, model: "Model", task: "Task", progress: "Progress") -> "FindEdge":
    """Where points meet the edge, along one path for each start and its layers and factors, on disk once known."""
    from linft import predict
    from linft.core.trees import digest
    from linft.predict.sharpening import Edge, Sharpening, kept, layers_of, why_no_edge

    paths: dict[tuple[int, Recipe], Sharpening] = {}

    def path(point: grids.Point, layers: Recipe) -> Sharpening:
        return predict.sharpening(
            command.model.with_new_layers(model, task, command.images.sample_seed, point.reinit_groups),
            task,
            layers,
            at="network" if command.model.head == "probe" else "features",
            batch_size=command.kernel.kernel_batch,
            progress=lambda done, total: progress("path", done, total),
        )

    def of(point: grids.Point) -> Edge | None:
        if why_no_edge(point.recipe):
            return None
        about = point.reinit_groups, layers_of(point.recipe)
        if about not in paths:
            file = command.writing.output / f"path-{digest(repr(about))[:8]}.json"
            paths[about] = kept(file, lambda: path(point, layers_of(point.recipe)))
        return paths[about].edge(point.recipe, len(task.y_train))

    return of


def tangent(command: SweepRecipes, model: "Model", task: "Task", point: grids.Point, progress: "Progress") -> "Tangent":
    """The kernel of a point's start, on disk once it has been computed."""
    from linft import predict
    from linft.core.trees import digest
    from linft.predict.tangent import kept, mode

    given: dict[str, Any] = options(command, model, point, progress) | {"batch_norm": mode(model, point.recipe)}
    finer = "" if given["groups"] == model.stages else f"-{digest(tuple(given['groups']))[:8]}"
    training = "-training-mode" if given["batch_norm"] == "train" else ""
    of_draws = f"-{command.draws}-draws" if command.draws else ""
    kind = f"{given['outputs']}{finer}{training}{of_draws}-{point.reinit_groups}"
    return kept(
        command.writing.output / f"tangent-{kind}.safetensors",
        lambda: predict.tangent(model, task, **given),
    )


def options(command: SweepRecipes, model: "Model", point: grids.Point, progress: "Progress") -> dict[str, Any]:
    """How a kernel is computed: by stages, and by as many groups more as the recipes tell apart."""
    from linft.training.optimizer import kernel_groups

    every = recipes(command, tuple(model.layer_groups))
    what = "kernel" if point.reinit_groups == 1 else f"kernel {point.reinit_groups}"
    return command.kernel.arguments() | {
        "groups": kernel_groups(model.layer_groups, *every),
        "progress": lambda done, total: progress(what, done, total),
    }


def tell(command: SweepRecipes, console: "Console", swept: "result.Sweep") -> None:
    """The best points, what became of the others, and what was dropped."""
    from linft.cli.terminal import print_lines, print_table
    from linft.report.sweep import write
    from linft.runtime import schema
    from linft.workflows.sweep import result

    finished = [row for row in swept.rows if row.status == "finished"]
    best = sorted(finished, key=result.best_first)[:SHOWN]
    part = "test" if command.validation is None else "held-out"
    if best:
        names = list(dict.fromkeys(setting for row in best for setting in row.values))
        above = ["over the edge"] if command.edge else []
        print_table(
            [*(s.replace("_", " ") for s in names), f"{part} accuracy", f"{part} loss", "train loss", *above],
            [
                [f"{row.values.get(setting, '')}" for setting in names]
                + [f"{row.test_accuracy:.1%}", f"{row.test_loss:.3f}", f"{row.train_loss:.3f}"]
                + [f"{row.edge_on_path.overshoot:.2g}" if row.edge_on_path else "–" for _ in above]
                for row in best
            ],
        )
    counts = {status: sum(row.status == status for row in swept.rows) for status in result.STATUSES}
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    lines = [f"{len(swept.rows)} points: {told}."]
    reasons = dict.fromkeys(row.reason for row in swept.rows if row.status in ("refused", "failed"))
    lines += [f"Not run: {reason}." for reason in reasons]
    lines += [f"Not as the recipe says: {note}." for note in swept.dropped]
    known, left, broken = result.beyond_edge(swept.rows)
    if known:
        lines.append(f"{left} of {known} points leave the predicted path, {broken} are expected to break.")
    print_lines(lines)
    page = write(schema.read(command.writing.output / result.FILE, result.SweepResult), command.writing.output)
    console.print(f"Report: {page}", soft_wrap=True)
