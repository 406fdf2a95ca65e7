"""`advise`: one recipe for a model and a task, with its reasons, its predicted curve, and how sure it is."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from linft import predict
from linft.core import trees
from linft.core.base import Model, Trajectory
from linft.core.errors import LinftError
from linft.core.layer_settings import LayerSettings
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.core.trajectory_json import saved
from linft.core.trees import Groups, digest
from linft.predict.choice import FALLS, KINDS, fall, unmeasured
from linft.predict.stability import Stability, stability
from linft.runtime import schema
from linft.runtime.claims import claim
from linft.runtime.json_files import plain, read_json, write_json
from linft.runtime.progress import Progress
from linft.runtime.versions import versions
from linft.training.optimizer import kernel_groups
from linft.training.run_directory import Diverged, run_in
from linft.workflows.advise import DEFAULT
from linft.workflows.advise.initialization import Initialization, Tangents
from linft.workflows.advise.measures import Curvature, Measures, curvature, measure
from linft.workflows.advise.rules import Rule, Space, blocks, fired, narrowed, safe
from linft.workflows.advise.search import Searched, search
from linft.workflows.sweep import result as sweep_result
from linft.workflows.sweep.grid import Block, Grid, Values, at

SCHEMA, FILE = "linft-advise-1", "advice.json"
SEARCHED = ("reinit_groups", "momentum", "learning_rate", "l2sp", "weight_decay")
FINALS = ("accuracy", "mean_per_class_accuracy", "loss", "calibration_error")


@dataclass(frozen=True)
class Certainty:
    """How far an advice can be trusted."""

    accuracy: float
    """Predicted for images that are not trained on: mean over folds."""
    spread: float
    """Standard deviation over folds."""
    default_accuracy: float | None
    """The same of the recipe that the others vary; None where its rate is too large to be searched."""
    points: int
    """That were tried."""
    tied: int
    """Of them, those that cannot be told apart from the most accurate one."""
    diverged: int
    """Of them, those that diverged on a fold."""
    edge: Stability
    """Where the recipe stands, on all training images."""
    fall: float | None
    """By how much of its first value the train loss is predicted to fall; None where it rises above it."""
    curve_error: float | None
    """Upper quartile of the errors of predicted loss curves that fell as far, as measured
    (`predict.choice.KINDS`); None where nothing was measured, as of a run unlike those."""
    moved: float
    """Largest predicted ‖w − w0‖ / ‖w0‖ of a stage without new weights: first order asks for little."""


@dataclass(frozen=True)
class Advice:
    """One recipe, and why."""

    recipe: Recipe
    reinit_groups: int
    """Last layer groups at new random weights; 1 is the head alone."""
    values: Values
    """What was chosen, by depth where it goes by layers."""
    initialization: Initialization
    default: Recipe
    """The recipe that the others vary, for as many steps."""
    measures: Measures
    rules: tuple[Rule, ...]
    """That fired."""
    space: Space
    curvatures: Mapping[int, Curvature]
    """By number of new groups."""
    searched: Searched
    curve: Trajectory
    """Predicted on all training images; its test part is one of them."""
    certainty: Certainty
    about: Mapping[str, Any]
    """Model, task, settings and seconds, as JSON has them."""

    @property
    def held_out(self) -> dict[str, Any]:
        """The predicted curve on images held out: mean over folds, and the standard deviation of the accuracy."""
        curves = [curve for of in self.searched.rows if (curve := of[self.searched.chosen].curve) is not None]
        accuracy = np.array([curve.test_accuracy for curve in curves])
        loss = np.array([curve.test_loss for curve in curves])
        return {
            "steps": curves[0].steps,
            "accuracy": accuracy.mean(0).tolist(),
            "accuracy_deviation": accuracy.std(0, ddof=1).tolist(),
            "loss": loss.mean(0).tolist(),
        }

    def as_json(self) -> dict[str, Any]:
        """All of it, as advice.json has it."""
        found, chosen = self.searched, self.searched.chosen
        accuracy, loss = found.accuracy.mean(0), found.loss.mean(0)
        return {
            "schema": SCHEMA,
            **self.about,
            "recipe": asdict(self.recipe),
            "reinit_groups": self.reinit_groups,
            "values": self.values,
            "default": asdict(self.default),
            "measures": {**asdict(self.measures), "gap_error": self.measures.gap_error,
                         "similarity": self.measures.similarity},
            "curvatures": {str(k): asdict(of) for k, of in self.curvatures.items()},
            "rules": [{name: getattr(rule, name) for name in ("name", "condition", "consequence", "source")}
                      for rule in self.rules],
            "space": asdict(self.space),
            "points": [
                {"values": point, "accuracy": float(accuracy[i]), "loss": float(loss[i]),
                 "by_fold": found.accuracy[:, i].tolist(), "tied": i in found.tied, "chosen": i == chosen}
                for i, point in enumerate(found.points)
            ],
            "certainty": {**asdict(self.certainty), "stable": self.certainty.edge.stable},
            "curve": {**asdict(saved(self.curve)), "held_out": self.held_out},
            "dropped": found.dropped,
            "versions": versions(),
        }  # fmt: skip

    def write(self, directory: str | Path) -> None:
        """Put all of it into advice.json."""
        write_json(Path(directory) / FILE, self.as_json())


def advise(
    model: Model,
    task: Task,
    budget: int | None = None,
    *,
    default: Recipe = DEFAULT,
    initialization: Initialization = Initialization(),
    shots: int = 25,
    folds: int = 5,
    output: str | Path | None = None,
    progress: Progress | None = None,
    **kernel: Any,
) -> Advice:
    """Advise a recipe from the training images alone; nothing is fine-tuned, and the test part is not looked at.

    Scores of the model on the task decide which of the papers' findings hold (`advising.rules`); these narrow
    a space of recipes, whose rates lie between what can be learnt within the budget and a share of the edge
    of stability; every recipe of it is replayed in function space on all but one fold of the training images,
    in turn, and judged on that fold.

    Args:
      model: with its source's head, which the small scores need.
      task: its training part is used.
      budget: training steps of the run; by default those of `default`.
      default: what the advice does not choose, and the recipe that it is held against.
      initialization: how the new layers are made.
      shots: training images of each class, at most, for scores.
      folds: of the cross-validation.
      output: directory that keeps what is computed; a call that was interrupted goes on from there.
      progress: called as work goes on.
      **kernel: outputs, engine, batch_size, draws of `predict.tangent`.

    Raises:
      LinftError: a budget below one step, too few images for the folds, a recipe with which every point diverges,
        or a directory that holds another advice.

    Example:
      >>> import jax, linft
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=2)
      >>> advice = advise(model, linft.load_task("digits").subset(20, 10), budget=4, folds=2)
      >>> advice.recipe.steps, advice.certainty.edge.stable
      (4, True)
    """
    steps = default.num_steps(len(task.y_train)) if budget is None else budget
    if steps < 1:
        raise LinftError(f"a budget of {steps} steps leaves nothing to train; give 1 or more")
    base = default.replace(steps=steps)
    path, tell = None if output is None else Path(output), progress or (lambda what, done, total: None)
    described = _described(model, task, initialization, kernel)
    settings = {"budget": steps, "shots": shots, "folds": folds}
    if path is not None:
        claim(path / "config.json", {**described, **settings, "recipe": asdict(base)}, "results")
    taken: dict[str, float] = {}
    kept = Kept(path, taken)
    measures = Measures(**kept("measures", lambda: asdict(measure(model, task, shots, initialization.seed))))
    tell("measures", 1, 1)
    rules = fired(measures)
    space = _possible(narrowed(rules), model)
    groups = _groups(space, model, base, steps)
    tangents = Tangents(initialization, model, task, {**kernel, "groups": groups}, path, tell)
    near, _ = predict.nearest(base)
    curvatures = {
        k: _curvature(kept(f"curvature-{k}", lambda k=k: asdict(curvature(tangents(k), near))))
        for k in dict.fromkeys((1, *space.reinit_groups))
    }
    own = _own(base, curvatures[1], safe(initialization, steps))
    used = {k: of for k, of in curvatures.items() if k in space.reinit_groups}
    grid = own + blocks(space, used, len(model.layer_groups), base, steps, safe(initialization, steps))
    layers = tuple(model.layer_groups)
    begin = time.perf_counter()
    searched = search(
        tangents,
        grid,
        base,
        layers,
        folds,
        initialization.seed,
        path and path / "search",
        {**described, **settings},
        tell,
    )
    taken["search"] = time.perf_counter() - begin if path is None else _search_seconds(path)
    values = searched.points[searched.chosen]
    point = at(values, base, LayerSettings(), layers)
    begin = time.perf_counter()
    recipe, _ = predict.nearest(point.recipe)
    curve = predict.dual(tangents(point.reinit_groups))(recipe)
    edge = stability(tangents(point.reinit_groups), recipe)
    taken["curve"] = time.perf_counter() - begin
    found = Advice(
        recipe=point.recipe,
        reinit_groups=point.reinit_groups,
        values=values,
        initialization=initialization,
        default=base,
        measures=measures,
        rules=rules,
        space=space,
        curvatures=curvatures,
        searched=searched,
        curve=curve,
        certainty=_certainty(
            searched,
            curve,
            edge,
            layers[-point.reinit_groups :],
            initialization,
            bool(own),
            point.reinit_groups == 1
            and unmeasured(model, task, point.recipe, initialization.head, initialization.head_scale) is None,
        ),
        about={**described, **settings, "seconds": {**taken, "all": sum(taken.values())}},
    )
    if path is not None:
        found.write(path)
    return found


def verify(
    advice: Advice,
    model: Model,
    task: Task,
    output: str | Path,
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Train the advised recipe and the default one from the starts that they have; what was begun is gone on with.

    Returns:
      By `advised` and `default`: status (finished or diverged), and of a finished run its accuracy, mean
      accuracy per class, loss and calibration error on the test part, its curve and its seconds.

    Raises:
      LinftError: the directory holds other runs, or cannot be written.
    """
    tell = progress or (lambda what, done, total: None)
    runs: dict[str, tuple[Recipe, int]] = {
        "advised": (advice.recipe, advice.reinit_groups),
        "default": (advice.default, 1),
    }
    found = {}
    for name, (recipe, reinit_groups) in runs.items():
        try:
            done = run_in(Path(output) / name, advice.initialization(model, task, reinit_groups), task, recipe)
            result = done.result
            found[name] = {"status": "finished", **{key: getattr(result.final, key) for key in FINALS},
                           "seconds": result.trajectory.seconds, "curve": asdict(result.trajectory)}  # fmt: skip
        except Diverged as error:
            found[name] = {"status": "diverged", "reason": str(error)}
        tell(name, 1, 1)
    return found


@dataclass(frozen=True)
class Kept:
    """Facts as JSON on disk, with the seconds that they took."""

    directory: Path | None
    seconds: dict[str, float]

    def __call__(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Those on disk, or new ones that are kept."""
        if self.directory is not None and (self.directory / f"{name}.json").exists():
            found = read_json(self.directory / f"{name}.json")
        else:
            begin = time.perf_counter()
            found = {"found": plain(make())}
            found["seconds"] = time.perf_counter() - begin
            if self.directory is not None:
                write_json(self.directory / f"{name}.json", found)
        self.seconds[name] = found["seconds"]
        return found["found"]


def _curvature(found: dict[str, Any]) -> Curvature:
    """As it is on disk, where a condition without bound is null."""
    return Curvature(**{**found, "condition": math.inf if found["condition"] is None else found["condition"]})


def _described(model: Model, task: Task, initialization: Initialization, kernel: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of model and task; of the latter's test part nothing."""
    return {
        "model": {"name": model.name, "digest": model.digest,
                  "layer_groups": list(model.layer_groups)},
        "task": {"name": task.name, "digest": digest((task.x_train, task.y_train)),
                 "train_images": len(task.y_train), "num_classes": task.num_classes},
        "start": asdict(initialization),
        "kernel": dict(kernel),
    }  # fmt: skip


def _possible(space: Space, model: Model) -> Space:
    """The space without new layer groups that this model cannot have: there must be one left, and initialisers."""
    most = len(model.layer_groups) - 1 if model.module is not None else 1
    return replace(space, reinit_groups=tuple(k for k in space.reinit_groups if k <= max(most, 1)))


def _groups(space: Space, model: Model, base: Recipe, steps: int) -> Groups:
    """The kernel's groups, fine enough for every recipe of the space, whatever the rates."""
    names = tuple(model.layer_groups)
    flat = dict.fromkeys(space.reinit_groups, Curvature(1.0, 1.0, 1.0, (), (), {}))
    points = Grid("all", tuple(blocks(space, flat, len(names), base, steps, 1.0))).points()
    return kernel_groups(
        model.layer_groups, base, *(at(values, base, LayerSettings(), names).recipe for values in points)
    )


def _own(base: Recipe, of: Curvature, share: float) -> list[Block]:
    """The default recipe as a point, where its rate is not too large to be searched."""
    near, _ = predict.nearest(base)
    if near.learning_rate / (1 - near.momentum) > share * of.edge(near):
        return []
    return [{name: (1,) if name == "reinit_groups" else (getattr(base, name),) for name in SEARCHED}]


def _search_seconds(path: Path) -> float:
    found = schema.read(path / "search" / sweep_result.FILE, sweep_result.SweepResult)
    return sum(of.seconds for of in found.sweeps.values())


def _certainty(
    searched: Searched,
    curve: Trajectory,
    edge: Stability,
    new: tuple[str, ...],
    initialization: Initialization,
    own: bool,
    measured: bool,
) -> Certainty:
    chosen, fell = searched.chosen, fall(curve)
    accuracy, default = searched.accuracy[:, chosen], searched.accuracy[:, 0].mean()
    place = len(FALLS) - 1 if fell is None else next(i for i, upper in enumerate(FALLS) if fell <= upper)
    moved = [
        float(curve.distance[group][-1] / curve.norm[group][0])
        for group in curve.distance
        if trees.stage(group) not in map(trees.stage, new) and curve.norm[group][0] > 0
    ]
    return Certainty(
        accuracy=float(accuracy.mean()),
        spread=float(accuracy.std(ddof=1)),
        default_accuracy=float(default) if own and np.isfinite(default) else None,
        points=len(searched.points),
        tied=len(searched.tied),
        diverged=int(np.isnan(searched.accuracy).any(0).sum()),
        edge=edge,
        fall=fell,
        curve_error=KINDS["dual"].errors["probe" if initialization.head == "probe" else "fresh"][place]
        if measured
        else None,
        moved=max(moved, default=0.0),
    )
