"""`advise`: one recipe for a model and a task, with its reasons, its predicted curve, and how sure it is."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from linft import predict
from linft.core import trees
from linft.core.base import Model, Trajectory
from linft.core.errors import LinftError
from linft.core.layer_settings import LayerSettings
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.core.trees import Groups, digest
from linft.models.lora import has_adapters
from linft.predict.choice import FALLS, KINDS, fall, unmeasured
from linft.predict.stability import stability
from linft.predict.tangent import mode
from linft.runtime import schema
from linft.runtime.claims import claim
from linft.runtime.progress import Progress
from linft.training.optimizer import kernel_groups
from linft.training.result import Scores
from linft.training.run_directory import Diverged, run_in
from linft.workflows.advise import DEFAULT
from linft.workflows.advise.initialization import Initialization, Tangents
from linft.workflows.advise.measures import Curvature, curvature, measure
from linft.workflows.advise.result import (
    Advice,
    AdviceInputs,
    AdvisedModel,
    AdvisedTask,
    Certainty,
    KeptCurvature,
    KeptMeasures,
    VerifiedRun,
)
from linft.workflows.advise.rules import Space, blocks, fired, narrowed, safe
from linft.workflows.advise.search import Searched, search
from linft.workflows.advise.search import folds as parts
from linft.workflows.compare.result import StabilityResult
from linft.workflows.sweep import result as sweep_result
from linft.workflows.sweep.grid import Grid, GridBlock, at

SEARCHED = ("reinit_groups", "momentum", "learning_rate", "l2sp", "weight_decay")
FINALS = ("accuracy", "mean_per_class_accuracy", "loss", "calibration_error")

Fact = TypeVar("Fact", KeptMeasures, KeptCurvature)


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

    Scores of the model on the task decide which of the papers' findings hold (`rules`); these narrow
    a space of recipes, whose rates lie between what can be learnt within the budget and a share of the edge
    of stability; every recipe of it is replayed in function space on all but one fold of the training images,
    in turn, and judged on that fold. With batch norm in training mode the statistics are those of all training
    images, without their labels.

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
    parts(task.y_train, folds)  # too few images for them are told before anything is computed
    base = default.replace(steps=steps)
    path, tell = None if output is None else Path(output), progress or (lambda what, done, total: None)
    about = AdviceInputs(
        model=AdvisedModel(name=model.name, digest=model.digest, layer_groups=list(model.layer_groups)),
        task=_about(task),
        initialization=initialization,
        kernel=dict(kernel),
        budget=steps,
        shots=shots,
        folds=folds,
    )
    described = schema.content(about)
    if path is not None:
        claim(path / "config.json", {**described, "recipe": asdict(base)}, "results")
    taken: dict[str, float] = {}
    kept = Facts(path, taken)
    measures = kept("measures", KeptMeasures, lambda: measure(model, task, shots, initialization.seed)).found
    tell("measures", 1, 1)
    rules = fired(measures)
    space = _possible(narrowed(rules), model)
    groups = _groups(space, model, base, steps)
    batch_norm = mode(model, base)
    tangents = Tangents(initialization, model, task, {**kernel, "groups": groups, "batch_norm": batch_norm}, path, tell)
    near, _ = predict.nearest(base, batch_norm)
    curvatures = {
        k: kept(f"curvature-{k}", KeptCurvature, lambda k=k: curvature(tangents(k), near)).found
        for k in dict.fromkeys((1, *space.reinit_groups))
    }
    own = _own(base, near, curvatures[1], safe(initialization, steps))
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
        described,
        tell,
    )
    taken["search"] = time.perf_counter() - begin if path is None else _search_seconds(path)
    values = searched.points[searched.chosen]
    point = at(values, base, LayerSettings(), layers)
    begin = time.perf_counter()
    recipe, _ = predict.nearest(point.recipe, batch_norm)
    curve = predict.dual(tangents(point.reinit_groups))(recipe)
    edge = stability(tangents(point.reinit_groups), recipe)
    taken["curve"] = time.perf_counter() - begin
    found = Advice(
        recipe=point.recipe,
        reinit_groups=point.reinit_groups,
        values=values,
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
            StabilityResult(loss=recipe.loss, **vars(edge), stable=edge.stable),
            layers[-point.reinit_groups :],
            initialization,
            bool(own),
            point.reinit_groups == 1
            and unmeasured(model, task, point.recipe, initialization.head, initialization.head_scale) is None,
        ),
        about=about,
        seconds={**taken, "all": sum(taken.values())},
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
) -> dict[str, VerifiedRun]:
    """Train the advised recipe and the default one from the starts that they have; what was begun is gone on with.

    Returns:
      What came of them, by `advised` and `default`.

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
            final = Scores(**{key: getattr(done.result.final, key) for key in FINALS})
            found[name] = VerifiedRun(final=final, trajectory=done.result.trajectory)
        except Diverged as error:
            found[name] = VerifiedRun(diverged=str(error))
        tell(name, 1, 1)
    return found


@dataclass(frozen=True)
class Facts:
    """Facts on disk, with the seconds that they took."""

    directory: Path | None
    seconds: dict[str, float]

    def __call__(self, name: str, kind: type[Fact], make: Callable[[], Any]) -> Fact:
        """The fact on disk, or a new one that is kept."""
        file = None if self.directory is None else self.directory / f"{name}.json"
        if file is not None and file.exists():
            fact = schema.read(file, kind)
        else:
            begin = time.perf_counter()
            fact = kind(found=make(), seconds=time.perf_counter() - begin)
            if file is not None:
                schema.write(file, fact)
        self.seconds[name] = fact.seconds
        return fact


def _about(task: Task) -> AdvisedTask:
    """What is known of a task; of its test part nothing."""
    return AdvisedTask(
        name=task.name,
        digest=digest((task.x_train, task.y_train)),
        train_images=len(task.y_train),
        num_classes=task.num_classes,
    )


def _possible(space: Space, model: Model) -> Space:
    """The space without new layer groups that this model cannot have: there must be one left, and initialisers."""
    drawn = model.module is not None and not has_adapters(model)
    most = len(model.layer_groups) - 1 if drawn else 1
    return replace(space, reinit_groups=tuple(k for k in space.reinit_groups if k <= max(most, 1)))


def _groups(space: Space, model: Model, base: Recipe, steps: int) -> Groups:
    """The kernel's groups, fine enough for every recipe of the space, whatever the rates."""
    names = tuple(model.layer_groups)
    flat = dict.fromkeys(space.reinit_groups, Curvature(1.0, 1.0, 1.0, (), (), {}))
    points = Grid("all", tuple(blocks(space, flat, len(names), base, steps, 1.0))).points()
    return kernel_groups(
        model.layer_groups, base, *(at(values, base, LayerSettings(), names).recipe for values in points)
    )


def _own(base: Recipe, near: Recipe, of: Curvature, share: float) -> list[GridBlock]:
    """The default recipe as a point, where the rate of what is predicted of it is not too large to be searched."""
    if near.learning_rate / (1 - near.momentum) > share * of.edge(near):
        return []
    return [{name: (1,) if name == "reinit_groups" else (getattr(base, name),) for name in SEARCHED}]


def _search_seconds(path: Path) -> float:
    found = schema.read(path / "search" / sweep_result.FILE, sweep_result.SweepResult)
    return sum(of.seconds for of in found.sweeps.values())


def _certainty(
    searched: Searched,
    curve: Trajectory,
    edge: StabilityResult,
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
