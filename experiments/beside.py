"""Real and predicted rows of the same recipes: what the experiments on hyperparameters share.

An experiment is a list of cases: a task, a model to start from, and a grid of settings around a recipe of
constant rate. Every point is run once, for the long budget, and measured on the way, so that its values at the
short budget are those of the shorter run. Rows are lines of DIRECTORY/BY/TASK-CASE.jsonl, written as they are
found: any number of processes may run different tasks at once (`--tasks`), and a call that was interrupted goes
on from there. Where points are chosen on held-out training images, the same runs measured on those are rows of
DIRECTORY/BY-held-out.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

import linft
from linft import predict
from linft.core.base import Model, Tangent, Task
from linft.core.layer_settings import LayerSettings
from linft.core.trees import digest
from linft.models import batch_norm
from linft.models.reinitialize import reinitialize, with_new_layers
from linft.predict.tangent import kept
from linft.runtime import json_lines
from linft.runtime.claims import claim
from linft.training.optimizer import kernel_groups
from linft.workflows.advise.initialization import Initialization
from linft.workflows.advise.measures import curvature
from linft.workflows.advise.rules import safe
from linft.workflows.sweep.grid import Point, Source, at, grid
from linft.workflows.sweep.result import FINALS, Row, key, rows_in
from linft.workflows.sweep.sweep import run_points

By = Literal["real", "predicted", "features"]
Part = Literal["test", "held-out"]
"""Images on which a run is measured: the test part's, or training images on which no run is trained."""
Do = Literal["real", "predicted", "features", "report"]
Scale = Literal["smoke", "laptop"]

SOURCE = "resnet14-cifar10"
SCRATCH = "scratch"
"""In place of a model's name: its architecture at random weights."""
NEAR, FAR = ("ucmerced16", "hymenoptera"), ("sign_digits", "digits")
"""Photographs, as the source's images are; and signs of hands and digits, which are not."""
FILES = {"fashion": "fashion_mnist_sprite_28"}
KERNELS = Path("runs/kernels")


@dataclass(frozen=True)
class Sizes:
    """Sizes of every run."""

    train_images: int = 128
    test_images: int = 200
    """At most; equally many of each class, so that the error is the mean of the classes' errors."""
    batch_size: int = 16
    short: int = 30
    long: int = 120
    """Steps of the two budgets."""
    record_every: int = 30

    def recipe(self, **changes: Any) -> linft.Recipe:
        """The long budget at a constant rate, batch norm frozen; Nesterov momentum 0.9."""
        return linft.Recipe(learning_rate=0.01, batch_size=self.batch_size, steps=self.long).replace(**changes)

    @property
    def budgets(self) -> dict[str, int]:
        """Steps by the name of the budget."""
        return {"short": self.short, "long": self.long}


SIZES: dict[Scale, Sizes] = {
    "smoke": Sizes(train_images=16, test_images=20, batch_size=8, short=2, long=4, record_every=1),
    "laptop": Sizes(),
}


@dataclass(frozen=True)
class Case:
    """Recipes of one task from one start."""

    task: str
    name: str
    grid: Source
    base: linft.Recipe
    model: str = SOURCE
    by: tuple[By, ...] = ("real", "predicted")
    """How its points are found."""
    parts: tuple[Part, ...] = ("test",)
    """On what they are measured."""

    @property
    def file(self) -> str:
        """Where its rows are."""
        return f"{self.task}-{self.name}.jsonl"

    def points(self, layer_groups: Sequence[str]) -> list[Point]:
        """Every point of the grid."""
        return [
            at(values, self.base, LayerSettings(), layer_groups)
            for values in grid(self.grid, len(layer_groups)).points()
        ]


def carry_out(cases: Iterable[Case], directory: Path, data: Path, sizes: Sizes, do: Sequence[Do]) -> None:
    """Run what is missing of every case, really or by its kernel."""
    for case in cases:
        for by, part in itertools.product(case.by, case.parts):
            if by in do:
                run(case, by, directory, data, sizes, part)


def run(case: Case, by: By, directory: Path, data: Path, sizes: Sizes, part: Part = "test") -> None:
    """Write the rows of a case that are missing."""
    lines, task = place(case, by, directory, part), task_of(case.task, data, sizes, part)
    identity = {"model": loaded(case.model).digest, "task": task.digest, "recipe": asdict(case.base)}
    claim(lines.with_suffix(".json"), identity | {"record_every": sizes.record_every}, "rows")
    done = rows_in(lines)
    missing = [point for point in case.points(tuple(loaded(case.model).layer_groups)) if key(point.values) not in done]
    for reinit_groups in dict.fromkeys(point.reinit_groups for point in missing):
        of_start = [point for point in missing if point.reinit_groups == reinit_groups]
        for rows in ROWS[by](case, task, reinit_groups, of_start, sizes):
            json_lines.append(lines, rows)
            print(f"{by} {case.file} {part}: {', '.join(map(str, rows[-1]['values'].values()))}", flush=True)


def place(case: Case, by: By, directory: Path, part: Part = "test") -> Path:
    """The file of a case's rows."""
    return directory / (by if part == "test" else f"{by}-{part}") / case.file


def really(case: Case, task: Task, reinit_groups: int, points: Sequence[Point], sizes: Sizes) -> Iterator[list[Row]]:
    """Rows of real runs."""
    run = linft.finetune(start(case.model, task, reinit_groups), task, record_every=sizes.record_every)
    yield from run_points(run, points)


def predicted_rows(
    case: Case, task: Task, reinit_groups: int, points: Sequence[Point], sizes: Sizes
) -> Iterator[list[Row]]:
    """Rows of predicted runs, each with the effective rate at which its start meets the edge of stability."""
    recipe_of = {key(point.values): predict.nearest(point.recipe)[0] for point in points}
    tangent = tangent_of(case.model, task, reinit_groups, recipe_of.values())
    of_start = curvature(tangent, case.base)
    for rows in run_points(predict.dual(tangent, record_every=sizes.record_every), points):
        yield [row | {"edge": of_start.edge(recipe_of[key(row["values"])])} for row in rows]


def predicted_by_features(
    case: Case, task: Task, reinit_groups: int, points: Sequence[Point], sizes: Sizes
) -> Iterator[list[Row]]:
    """Rows of runs predicted with the head exact, by the features' kernel along few directions."""
    tangent = predict.feature_tangent(start(case.model, task, reinit_groups), task, outputs="low-rank")
    yield from run_points(predict.feature_dual(tangent, record_every=sizes.record_every), points)


ROWS: dict[By, Callable[..., Iterator[list[Row]]]] = {
    "real": really,
    "predicted": predicted_rows,
    "features": predicted_by_features,
}


@cache
def loaded(name: str) -> Model:
    """A shipped model, or its architecture at random weights."""
    if name != SCRATCH:
        return linft.load_model(name)
    like = loaded(SOURCE)
    return reinitialize(like, len(like.layer_groups), jax.random.key(1)).replace(name=SCRATCH)


@cache
def task_of(name: str, data: Path, sizes: Sizes, part: Part = "test") -> Task:
    """Training images in proportion to the classes; of a part images in equal numbers."""
    whole = linft.load_task("digits" if name == "digits" else f"npz:{data / FILES.get(name, f'{name}_32')}.npz")
    numbered = whole.replace(x_train=np.arange(len(whole.y_train))).subset(sizes.train_images, seed=0)
    drawn: np.ndarray = numbered.x_train
    rest = np.setdiff1d(np.arange(len(whole.y_train)), drawn)
    parts = {"test": (whole.x_test, whole.y_test), "held-out": (whole.x_train[rest], whole.y_train[rest])}
    images, labels = parts[part]
    each = min(sizes.test_images // whole.num_classes, int(np.bincount(labels).min()))
    of_part = whole.replace(x_train=images, y_train=labels).few_shot(each, seed=0)
    return Task(
        x_train=whole.x_train[drawn],
        y_train=whole.y_train[drawn],
        x_test=of_part.x_train,
        y_test=of_part.y_train,
        name=name,
        class_names=whole.class_names,
    )


def start(name: str, task: Task, reinit_groups: int = 1) -> Model:
    """The model with new last layers; with the batch-norm statistics of the task's images where a norm is new.

    New norms have means of 0 and variances of 1, and those above them have seen other inputs.
    """
    model = with_new_layers(loaded(name), task, 0, reinit_groups)
    return batch_norm.reestimated(model, task.x_train) if name == SCRATCH or reinit_groups > 1 else model


def tangent_of(name: str, task: Task, reinit_groups: int, recipes: Iterable[linft.Recipe]) -> Tangent:
    """The kernel of a start in as many groups as some recipes need, kept on disk under the digests of what it is of."""
    KERNELS.mkdir(parents=True, exist_ok=True)
    model = start(name, task, reinit_groups)
    groups = kernel_groups(model.layer_groups, *recipes)
    of = f"{model.digest}-{task.digest}-{digest(tuple(groups))}"
    return kept(
        KERNELS / f"{name}-{reinit_groups}-{of}.safetensors", lambda: predict.tangent(model, task, groups=groups)
    )


def rows_of(case: Case, by: By, directory: Path, step: int, part: Part = "test") -> list[Row]:
    """The rows of a case as they are after so many steps."""
    return [after(row, step) for row in rows_in(place(case, by, directory, part)).values()]


def after(row: Row, step: int) -> Row:
    """The row of the run that ends at this step: at a constant rate it is the beginning of the longer one."""
    steps = row["curve"]["steps"]
    if row["diverged_at"] is not None and row["diverged_at"] <= step:
        return {**row, "status": "diverged", **dict.fromkeys(FINALS)}
    place = steps.index(step)
    return {**row, "status": "finished", **{name: row["curve"][name][place] for name in FINALS}}


def chosen(cases: Iterable[Case], tasks: Sequence[str]) -> list[Case]:
    """The cases of these tasks; of all where none are given."""
    return [case for case in cases if not tasks or case.task in tasks]


def pairs(case: Case, directory: Path, step: int, part: Part = "test") -> list[tuple[Row, Row]]:
    """Predicted and real rows of the points that have both, after so many steps."""
    real = {key(row["values"]): row for row in rows_of(case, "real", directory, step, part)}
    found = [(row, real.get(key(row["values"]))) for row in rows_of(case, "predicted", directory, step, part)]
    return [(row, of) for row, of in found if of is not None]


def below(row: Row, share: float) -> bool:
    """Whether a predicted row's rate is below a share of the edge of stability."""
    return row["effective_rate"] <= share * row["edge"]


def cautious(both: Iterable[tuple[Row, Row]], steps: int) -> list[tuple[Row, Row]]:
    """Those whose rate is safe for so many steps (`advising.rules.safe`)."""
    return [pair for pair in both if below(pair[0], safe(Initialization(), steps))]


@dataclass(frozen=True)
class Best:
    """The most accurate of some points, and of those with a safe rate the one predicted to be, as they are measured."""

    real: Row
    predicted: Row
    taken: Row
    """The real row of the point predicted to be best."""

    @property
    def regret(self) -> float:
        """Accuracy lost by taking the point predicted to be best; a run that diverged is as good as a guess at 0."""
        return self.real["test_accuracy"] - (self.taken["test_accuracy"] or 0.0)


def best(both: Iterable[tuple[Row, Row]], steps: int, held_out: Iterable[tuple[Row, Row]] | None = None) -> Best | None:
    """Of the points that ended; of equals the one of least loss; None where none did in truth or by prediction.

    Where no point has a rate that is safe for so many steps, the one of the smallest is taken.

    Args:
      held_out: the same points on the images on which they are chosen; without, on those where they are measured,
        which flatters the best of many.
    """
    measured = {key(pair[0]["values"]): pair for pair in both}
    both = list(measured.values() if held_out is None else held_out)

    def order(row: Row) -> tuple[float, float]:
        return -row["test_accuracy"], row["test_loss"]

    real = [pair for pair in both if pair[1]["status"] == "finished"]
    predicted_pairs = sorted(
        (pair for pair in both if pair[0]["status"] == "finished"), key=lambda p: p[0]["effective_rate"]
    )
    if not real or not predicted_pairs:
        return None
    chosen = min(real, key=lambda pair: order(pair[1]))
    predicted_best = min(cautious(predicted_pairs, steps) or predicted_pairs[:1], key=lambda pair: order(pair[0]))
    _, of_real = measured[key(chosen[0]["values"])]
    return Best(of_real, *measured[key(predicted_best[0]["values"])])


def settings(row: Row, names: Iterable[str]) -> str:
    """The values of some settings, as a table has them."""
    return ", ".join(f"{row['values'][name]:g}" for name in names if row["values"].get(name) is not None) or "–"


def markdown(title: str, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table with a sentence above it."""
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join('---' for _ in heads)} |"]
    return "\n".join([title, "", *lines, *(f"| {' | '.join(map(str, row))} |" for row in rows), ""])


def number(value: float | None) -> str:
    """Two decimals, or a dash."""
    return "–" if value is None else f"{value:.2f}"


def share(value: float | None) -> str:
    """In per cent, or a dash."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.1%}"
