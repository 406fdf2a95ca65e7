"""`linft rank`: which model of a zoo to fine-tune on a task, without fine-tuning any."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from linft.cli.options import TaskOptions
from linft.runtime.progress import Progress

if TYPE_CHECKING:
    from linft.core.task import Task
    from linft.workflows.rank.kernel_pictures import Picture
    from linft.workflows.rank.rank import Ranking

SHOWN = 5  # columns of scores beside the consensus, so that the table fits a terminal


@dataclass(frozen=True)
class Layers:
    """Whose gradients the kernel is made of, for lgc, training_speed and generalization."""

    groups: tuple[str, ...] = ()
    """Stages or blocks, by name, or all; by default the last convolution alone."""
    outputs: Literal["trace", "pseudo"] = "trace"
    """trace, or pseudo: along random signs over the logits."""
    dimensions: int | None = None
    """Project the gradients of larger parameters to so many numbers; the error is told."""


@dataclass(frozen=True)
class Rank:
    """Rank the models of a zoo for a task by all scores, with how far the order can be trusted.

    Writes ranking.json, ranking.csv and ranking.html; an interrupted call goes on from the models that are
    scored. Models that cannot be read are reported.
    """

    task: Annotated[TaskOptions, tyro.conf.OmitArgPrefixes]
    zoo: str = "shipped"
    """Directory of a zoo; shipped: the one that comes with the package."""
    models: tuple[str, ...] = ()
    """Models in place of a zoo's: names, files or hf:OWNER/NAME."""
    output: Path = Path("ranking")
    """Directory for everything that is written."""
    scores: tuple[str, ...] = ()
    """Scores, by name, or all; by default those that cost one pass over the images."""
    shots: int = 25
    """Training images of each class, at most."""
    seed: int = 0
    """Of the drawn images and of what is random in scores."""
    resamples: int = 20
    """Halves of the sample that errors are taken from."""
    jobs: Annotated[int, tyro.conf.arg(aliases=["-j"])] = 1
    """Processes that score models at once."""
    layers: Annotated[Layers, tyro.conf.OmitArgPrefixes] = Layers()
    pictures: int = 2
    """Models at either end of the ranking whose kernels the page shows."""
    epochs: int = 0
    """Fine-tune the first model for so many epochs, and show its kernels before, halfway and after; 0: do not."""

    def __call__(self) -> None:
        """Score, write, and print the table."""
        from rich.console import Console

        import linft
        from linft.cli.terminal import bars, print_lines, print_table
        from linft.scores.gather import ScoreGradients

        console, layers = Console(), self.layers
        models = self.given()
        task = self.task.load()
        with bars(console) as progress:
            ranking = linft.rank(
                models,
                task,
                self.scores or None,
                per_class=self.shots,
                seed=self.seed,
                resamples=self.resamples,
                gradients=ScoreGradients(layers.groups, layers.outputs, dimensions=layers.dimensions),
                jobs=self.jobs,
                output=self.output,
                progress=progress,
            )
            ranking.write(self.output)
            pictures, epochs = self.kernels(ranking, models, task.max_per_class(self.shots, self.seed), progress)
        from linft.report import ranking as page  # matplotlib, once there is something to show

        path = page.write(ranking.result(), self.output, pictures, epochs)
        print_table(*table(ranking))
        print_lines(notes(ranking))
        print_lines([f"Page: {path}"])

    def given(self) -> list[str | Path]:
        """The models to rank."""
        from linft.zoo.directory import entries
        from linft.zoo.load import SHIPPED

        zoo = SHIPPED if self.zoo == "shipped" else Path(self.zoo).expanduser()
        return list(self.models) or [entry.path for entry in entries(zoo)]

    def kernels(
        self,
        ranking: "Ranking",
        models: "list[str | Path]",
        sample: "Task",
        progress: Progress,
    ) -> "tuple[list[Picture], list[Picture]]":
        """Pictures of the first and last models, and of the first as it is fine-tuned."""
        from linft.core import paper_recipes
        from linft.workflows.rank.kernel_pictures import over_epochs, picture
        from linft.workflows.rank.rank import named
        from linft.zoo.load import load_model

        order, where = ranking.order(), named(models)
        ends = dict.fromkeys([*order[: self.pictures], *order[max(0, len(order) - self.pictures) :]])
        shown = ends if self.pictures > 0 else {}
        pictures = []
        for done, name in enumerate(shown, 1):
            pictures.append(picture(load_model(str(where[name])), sample))
            progress("kernels", done, len(shown))
        if self.epochs < 1 or not order:
            return pictures, []
        recipe = paper_recipes.named("deshpande2021", len(sample.y_train)).recipe.replace(epochs=self.epochs)
        model = load_model(str(where[order[0]]))
        told = over_epochs(model, sample, recipe, self.seed, lambda step, of, loss: progress("fine-tuning", step, of))
        return pictures, told


def table(ranking: "Ranking") -> tuple[list[str], list[list[str]]]:
    """Heads and cells: models by the consensus, with their scores."""
    scores = ranking.scores[:SHOWN]
    errors = {score: ranking.errors(score) for score in scores}
    groups, data = ranking.consensus_groups, {one.model: one.data for one in ranking.measured}

    def cell(score: str, model: str) -> str:
        values = ranking.values(score)
        if model not in values:
            return "–"
        error = errors[score].get(model)
        return f"{values[model]:.3g}" + ("" if error is None else f" ± {error:.2g}")

    rows = [
        [str(place), model, data[model], str(groups[model] + 1), f"{ranking.consensus[model]:.2f}"]
        + [cell(score, model) for score in scores]
        for place, model in enumerate(ranking.order(), 1)
    ]
    return ["", "model", "source data", "group", "consensus", *scores], rows


def notes(ranking: "Ranking") -> Iterator[str]:
    """What the table leaves out, and what could not be scored."""
    if len(ranking.scores) > SHOWN:
        yield f"In ranking.csv also {', '.join(ranking.scores[SHOWN:])}."
    for name, reason in ranking.failed.items():
        yield f"{name} failed: {reason}"
    reasons: dict[tuple[str, str], list[str]] = {}
    for one in ranking.measured:
        for score, reason in one.undefined.items():
            reasons.setdefault((score, reason), []).append(one.model)
    for (score, reason), models in reasons.items():
        of = f"all {len(models)} models" if len(models) == len(ranking.measured) else ", ".join(models)
        yield f"{score} does not exist for {of}: {reason}"
    projected = [one.lgc_error for one in ranking.measured if one.lgc_error is not None]
    if projected:
        yield f"Random projections make lgc uncertain by {max(projected):.2g} at most (one standard error)."
    compiled = sum(one.seconds.get("compile", 0.0) for one in ranking.measured)
    yield (
        f"{len(ranking.measured)} models in {ranking.about.seconds:.1f} s, compiling {compiled:.1f} s of it; "
        f"{ranking.about.images} images of {ranking.about.task.classes} classes"
    )
