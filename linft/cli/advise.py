"""`linft advise`: one recipe for a model and a task, predicted from the kernel, with reasons and doubts."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import tyro

from linft.cli import config
from linft.cli.options import ImageOptions, KernelOptions, ModelOptions, TaskOptions
from linft.core.errors import LinftError
from linft.core.layer_settings import LayerSettings
from linft.core.recipe import Recipe
from linft.workflows.advise import DEFAULT

if TYPE_CHECKING:
    from linft.core.task import Task
    from linft.workflows.advise.result import Advice, VerifiedRun

RECIPE = "recipe.yaml"
SETTINGS = ("learning_rate", "momentum", "weight_decay", "l2sp")  # that the table shows, beside those by depth


@dataclass(frozen=True)
class Advise:
    """Advise a recipe for fine-tuning a model on a task, without fine-tuning it.

    Measures how the pretrained features suit the task, applies the papers' findings, and searches what
    they leave in function space, by cross-validation on the training images. Writes advice.json and
    recipe.yaml, which `linft finetune --config` takes; an interrupted call goes on from what is computed.
    """

    budget: int | None = None
    """Training steps (updates) that the run may take; by default those of the recipe, 10 epochs."""
    verify: bool = False
    """Train the advised recipe and the default one, and measure both on the test images, used for nothing else."""
    output: Path = Path("advice")
    """Directory for everything that is written."""
    shots: int = 25
    """Training images of each class, at most, that the scores see."""
    folds: int = 5
    """Of the cross-validation."""
    task: Annotated[TaskOptions, tyro.conf.OmitArgPrefixes] = TaskOptions("digits")
    images: Annotated[ImageOptions, tyro.conf.OmitArgPrefixes] = ImageOptions(256, 200)
    model: Annotated[ModelOptions, tyro.conf.OmitArgPrefixes] = ModelOptions()
    kernel: Annotated[KernelOptions, tyro.conf.OmitArgPrefixes] = KernelOptions()
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
        import jax

        from linft.cli.terminal import bars, print_lines, print_table, terminal
        from linft.workflows.advise.advise import advise, verify
        from linft.workflows.advise.initialization import Initialization
        from linft.workflows.advise.result import FILE

        console, training = terminal(), self.training
        task = self.images.read(self.task.load())
        model = self.model.load()
        steps = training.num_steps(len(task.y_train)) if self.budget is None else self.budget
        console.print(
            f"{model.name} → {task.name}: {len(task.y_train)} training images, a budget of {steps} steps of "
            f"{training.batch_size_for(len(task.y_train))}, on {jax.default_backend()}",
            soft_wrap=True,
        )
        with bars(console) as progress:
            found = advise(
                model,
                task,
                steps,
                default=training,
                initialization=Initialization(self.model.head, self.model.head_scale, training.seed),
                shots=self.shots,
                folds=self.folds,
                output=self.output,
                progress=progress,
                **self.kernel.arguments(),
            )
            self.write_recipe(found, task)
            tell(found)
            if self.verify:
                verified = verify(found, model, task, self.output, progress)
                found.write(self.output, verified)
                print_table(*runs_table(found, verified))
        trains = f"linft finetune --config {self.output / RECIPE} --output DIR"
        print_lines([f"Written: {self.output / FILE}; train it with {trains}"])

    def write_recipe(self, found: "Advice", task: "Task") -> None:
        """recipe.yaml: the run as `linft finetune` takes it."""
        import yaml

        from linft.runtime.atomic_files import whole

        options: dict[str, Any] = {
            "task": self.task.task,
            **config.flat(self.model),
            "train_images": len(task.y_train),
            "test_images": len(task.y_test),
            "sample_seed": self.images.sample_seed,
        }
        of_depth = {name: value for name, value in found.values.items() if name in asdict(LayerSettings())}
        chosen = {name: value for name, value in found.values.items() if name not in of_depth}
        recipe = json.loads(json.dumps(asdict(found.default.replace(**chosen))))
        options |= {name: value for name, value in recipe.items() if value != []} | of_depth
        with whole(self.output / RECIPE) as partial:
            partial.write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")


def tell(found: "Advice") -> None:
    """The recipe beside the default one, why, its curve, and how sure it is."""
    from linft.cli.terminal import print_lines, print_table

    print_table(*recipe_table(found))
    print_lines(reasons(found))
    print_table(*curve_table(found))
    print_lines(doubts(found))


def recipe_table(found: "Advice") -> tuple[list[str], list[list[str]]]:
    """Every setting that was chosen, beside the default."""
    shown = {"reinit_groups": 1, **{name: getattr(found.default, name) for name in SETTINGS}, "low_rate": None,
             "low_groups": 0}  # fmt: skip
    rows = [
        [name.replace("_", " "), _text(found.values.get(name, before)), _text(before)] for name, before in shown.items()
    ]
    effective = [f"{recipe.learning_rate / (1 - recipe.momentum):.3g}" for recipe in (found.recipe, found.default)]
    return ["", "advised", "default"], [
        *rows,
        ["effective rate", *effective],
        ["steps", *[str(found.recipe.steps)] * 2],
    ]


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:g}"


def reasons(found: "Advice") -> Iterator[str]:
    """What was measured, and which findings hold."""
    from linft.workflows.advise.rules import effective_rates, safe

    measures = found.measures
    scores = ", ".join(f"{name} {value:.3g}" for name, value in measures.scores.items())
    yield f"Measured on {measures.images} training images: {scores}."
    for name, reason in measures.undefined.items():
        yield f"{name} does not exist here: {reason}"
    if measures.gap is None:
        yield "Near or far to the source is unknown, so that no finding narrows the search."
    elif measures.similarity == "between":
        yield (
            f"Neither near nor far to the source: probe gap {measures.gap:+.1%} ± {measures.gap_error:.1%}; no finding "
            "narrows the search."
        )
    for rule in found.rules:
        yield f"Because {rule.condition}: {rule.consequence} ({rule.source})."
    of, steps = found.curvatures[found.reinit_groups], found.recipe.steps or 1
    rates = effective_rates(found.space, of, found.recipe, steps, safe(found.initialization, steps))
    condition = "without bound" if of.condition is None else f"{of.condition:.3g}"
    yield (
        f"Kernel: λ1 = {of.largest:.3g}, worst minibatch {of.worst_batch:.3g}, condition {condition}. Half of "
        f"the residual is learnt within the budget at an effective rate of {of.learning(steps):.3g}; the edge of "
        f"stability is at {of.edge(found.recipe):.3g}; rates from {rates[0]:.3g} to {rates[-1]:.3g} were searched."
    )
    for note in found.searched.dropped:
        yield f"Not as the recipe says: {note}."


def curve_table(found: "Advice") -> tuple[list[str], list[list[str]]]:
    """The predicted curve."""
    held = found.held_out
    rows = [
        [str(step), f"{loss:.3f}", f"{on_held:.3f}", f"{accuracy:.1%} ± {deviation:.1%}"]
        for step, loss, on_held, accuracy, deviation in zip(
            held.steps, found.curve.train_loss, held.loss, held.accuracy, held.accuracy_deviation,
            strict=False,
        )
    ]  # fmt: skip
    return ["step", "train loss", "held-out loss", "held-out accuracy"], rows


def doubts(found: "Advice") -> Iterator[str]:
    """How sure it is."""
    from linft.workflows.advise.rules import safe

    sure, edge = found.certainty, found.certainty.edge
    gain = "" if sure.default_accuracy is None else f", the default recipe {sure.default_accuracy:.1%}"
    yield (
        f"Predicted accuracy on held-out training images {sure.accuracy:.1%} ± {sure.spread:.1%} over folds{gain}; "
        f"{sure.tied} of {sure.points} recipes cannot be told apart from the best, {sure.diverged} diverged."
    )
    h = max(edge.h, edge.worst_batch_h)
    yield (
        f"It is at {h / edge.limit:.2%} of the edge of stability at the start (h = {h:.3g}, limit {edge.limit:.3g}); "
        f"up to {safe(found.initialization, found.recipe.steps or 1):.1%} were searched, since real runs break before."
    )
    fell = "rises above its first value" if sure.fall is None else f"falls by {sure.fall:.0%}"
    error = (
        "how far such a curve is off was not measured"
        if sure.curve_error is None
        else f"of measured curves that fell as far three of four were off by up to {sure.curve_error:.1%}"
    )
    yield f"Linearization: the train loss {fell}; {error}; pretrained weights move by {sure.moved:.2%} of their length."


def runs_table(found: "Advice", verified: "dict[str, VerifiedRun]") -> tuple[list[str], list[list[str]]]:
    """What really came out, beside what was predicted."""
    predicted = {"advised": found.certainty.accuracy, "default": found.certainty.default_accuracy}

    def cells(name: str, run: "VerifiedRun") -> list[str]:
        before = "–" if predicted[name] is None else f"{predicted[name]:.1%}"
        if run.final is None or run.trajectory is None:
            return [name, before, "diverged", "", ""]
        return [name, before, f"{run.final.accuracy:.1%}", f"{run.final.loss:.3f}", f"{run.trajectory.seconds:.1f}"]

    header = ["recipe", "predicted, held out", "test accuracy", "test loss", "seconds"]
    return header, [cells(name, run) for name, run in verified.items()]
