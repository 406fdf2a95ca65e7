"""`compare`: predict a fine-tuning run, make it for real, and lay the two side by side."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int

from linft import predict
from linft.core import trees
from linft.core.band import band, by_seed, held_against, with_seed
from linft.core.base import Curves, Model, Outputs, RunningCurves, Tangent, Trajectory, recorded_steps
from linft.core.draws import still
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.core.trajectory_json import saved
from linft.models import randomness
from linft.ntk.empirical import Engine
from linft.predict.eigen import too_large
from linft.predict.spectrum import spectrum
from linft.predict.tangent import mode
from linft.runtime.progress import Progress
from linft.runtime.versions import versions
from linft.training.optimizer import kernel_groups
from linft.workflows.compare.agreement import agreement
from linft.workflows.compare.attribution import CAUSES, IN_TRAINING_MODE, attribute
from linft.workflows.compare.drift import PLACES, Drift, drift, traced
from linft.workflows.compare.result import (
    FILE,
    AboutModel,
    AboutTask,
    ComparisonResult,
    KernelResult,
    SeedBands,
    StabilityResult,
)
from linft.workflows.compare.runs import BY_SEED, KERNELS, MOVING, ON_REQUEST, PREDICTED, RUNS, Setting
from linft.workflows.compare.store import Store


@dataclass(frozen=True)
class Comparison:
    """Predicted and real runs of one recipe, and how they agree."""

    result: ComparisonResult
    """What `result.json` holds; `linft.report.write` makes a page of it."""
    runs: dict[str, Trajectory]
    tangent: Tangent


def compare(
    model: Model,
    task: Task,
    recipe: Recipe,
    runs: Sequence[str] | None = None,
    output: str | Path | None = None,
    *,
    seeds: int = 1,
    heads: Callable[[int], Model] | None = None,
    draws: int = 0,
    record_every: int | None = None,
    outputs: Outputs = "full",
    engine: Engine = "auto",
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Comparison:
    """Predict fine-tuning from the tangent kernel, fine-tune for real, and compare.

    The kernel's predictions come first, so that they are made before the truth is known. With
    `output`, everything finished is on disk at once: a call that was interrupted goes on from there.

    Args:
      model: with a head of as many outputs as the task has classes.
      runs: names among `RUNS`, or "all"; by default what the recipe allows, without the linearized
        networks trained in weights, which take as long as the real one.
      output: directory for `result.json`, the tangent and the finished runs.
      seeds: the real run and its predictions are made by so many seeds of the order of images, the recipe's and those
        that follow, and the predictions held against the band that the real ones leave open.
      heads: from a seed to the model with a head of its own, where seeds are to be of the head too, as with a fresh
        one; each takes kernels of its own.
      draws: of every training image, by which `dual`, `explicit`, `moving` and `moving_features` follow augmentation
        and mixup (`predict.augmented`); 0: like the other predictions, they leave both out.
      record_every: measure every so many steps; about a dozen times by default.
      outputs, engine, batch_size: of the kernel, as in `empirical_ntk`.
      progress: called as work goes on.

    Raises:
      LinftError: unknown runs, a head that does not fit, too little memory, seeds that make no difference, or an
        output directory that holds another comparison.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(20, 20)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=4)
      >>> recipe = linft.Recipe(learning_rate=1e-3, batch_size=10, steps=4)
      >>> sorted(compare(model, task, recipe, runs=("finetuned", "dual")).result.agreement)
      ['dual']
    """
    begin = time.perf_counter()
    tell = progress or (lambda what, done, total: None)
    chosen, skipped = _choose(model, task, recipe, runs, outputs)
    reference = _reference(recipe, chosen)
    if draws and recipe == still(recipe):
        raise LinftError("draws are for a recipe with augmentation or mixup; leave them out")
    random = seeds > 1 and (heads is not None or (reference == "finetuned_train_bn" and randomness.draws(model)))
    recipes = by_seed(recipe, seeds, len(task.y_train), random)
    models = {seed: model if seed == recipe.seed or heads is None else heads(seed) for seed in recipes}
    groups = kernel_groups(model.layer_groups, recipe)
    met = predict.augmented(model, task, recipe, draws) if draws else task
    options = dict(record_every=record_every, outputs=outputs, engine=engine, **({"draws": draws} if draws else {}))
    store = Store.open(output, "compare", model, task, recipe, options)
    kernel_begin = time.perf_counter()

    def compute(model: Model, task: Task) -> Tangent:
        return predict.tangent(
            model,
            task,
            groups=groups,
            outputs=outputs,
            engine=engine,
            batch_size=batch_size,
            batch_norm=mode(model, recipe),
            progress=lambda done, total: tell("kernel", done, total),
        )

    tangent = store.tangent(partial(compute, model, task))
    kernel_seconds = time.perf_counter() - kernel_begin
    setting = Setting(
        model, task, recipe, tangent, met, compute, record_every, lambda *_: None, kernels=[] if draws else [tangent]
    )
    at_start, traces = traced(tangent, task, groups, batch_size)
    places = _places(recorded_steps(recipe.num_steps(len(task.y_train)), record_every), chosen)

    def make(name: str, of: Recipe) -> tuple[Trajectory, Drift | None]:
        told = partial(tell, name if of == recipe else f"{name}, seed {of.seed}")
        kernels = {0: at_start}
        at = places if of == recipe and (name == reference or name in MOVING) else frozenset()

        def visit(step: int, network: Callable[[], Model]) -> None:
            if step in at:
                kernels[step] = traces(network())

        own = dataclasses.replace(setting, recipe=of, progress=lambda step, steps, loss: told(step, steps), visit=visit)
        if models[of.seed] is not model:
            own = own.under(models[of.seed])
        trajectory = RUNS[name](own)
        note = _note(own, name) if name in PREDICTED else ""
        settled = len(kernels) > 1 and trajectory.diverged_at is None
        drifted = drift(kernels, task.y_train[: len(next(iter(at_start.values())))]) if settled else None
        return dataclasses.replace(trajectory, note="; ".join(filter(None, (note, trajectory.note)))), drifted

    def others(name: str) -> str:
        return name if heads is None else f"{name}-heads"

    found: dict[str, dict[int, Trajectory]] = {}
    drifts = {}
    for name in sorted(chosen, key=lambda name: name not in PREDICTED):  # before the truth is known
        every = recipes if name == reference or name in BY_SEED else {recipe.seed: recipe}
        made = {
            seed: store.run(name if of == recipe else with_seed(others(name), seed), partial(make, name, of))
            for seed, of in every.items()
        }
        drifts[name] = made[recipe.seed][1]
        found[name] = {seed: trajectory for seed, (trajectory, _) in made.items()}
        setting.paths.clear()
        setting.jacobians.clear()
        if name in PREDICTED:
            tell(name, 1, 1)
    if setting.batch_norm == "train":
        found = {name: {s: _with_own_statistics(run) for s, run in of.items()} for name, of in found.items()}
    trajectories = {name: found[name][recipe.seed] for name in chosen}
    result = ComparisonResult(
        model=_describe_model(model),
        task=_describe_task(task),
        recipe=recipe,
        reference=reference,
        runs={name: saved(trajectory) for name, trajectory in trajectories.items()},
        skipped=skipped,
        agreement={
            name: agreement(trajectory, trajectories[reference])
            for name, trajectory in trajectories.items()
            if name != reference
        },
        attribution=attribute(trajectories, _causes(setting)),
        kernel=KernelResult(
            outputs=outputs,
            engine=tangent.kernel_train.engine,
            train_images=len(task.y_train),
            test_images=len(task.y_test),
            seconds=kernel_seconds,
            **vars(spectrum(tangent, recipe.loss)),
            drift=drifts[reference],
            predicted_drift=next((drifts[name] for name in MOVING if drifts.get(name)), None),
        ),
        stability=_stability(tangent, setting.kernel_recipe) if recipe.optimizer == "sgd" else None,
        versions=versions(),
        seconds=time.perf_counter() - begin,
        seeds=_by_seeds(found, recipe.seed, reference, heads is not None) if seeds > 1 else None,
        draws=draws,
    )
    return Comparison(store.finish(result, FILE), trajectories, tangent)


def _choose(
    model: Model, task: Task, recipe: Recipe, runs: Sequence[str] | None, outputs: Outputs
) -> tuple[list[str], dict[str, str]]:
    """The runs to make, in the order of RUNS, and why the others are not made."""
    named = {runs} if isinstance(runs, str) else set(runs or ())
    unknown = sorted(named - {*RUNS, "all"})
    if unknown:
        raise LinftError(f"no run {', '.join(unknown)}; choose among all, {', '.join(RUNS)}")
    batch_norm, n = mode(model, recipe), len(task.y_train)
    near, _ = predict.nearest(recipe, batch_norm)
    reasons = {
        "finetuned_train_bn": None if model.has_statistics else "the model has no batch norm",
        "spectral": predict.why_not_spectral(near, n, batch_norm) or too_large(n * task.num_classes),
        "gradient_flow": predict.why_not_flow(near, outputs, batch_norm)
        or (too_large(n * task.num_classes) if outputs == "full" else None),
        "flow_trace": predict.why_not_flow(near, "trace", batch_norm),
    }
    if not named:
        reasons |= {name: f"{why}; see --runs all" for name, why in ON_REQUEST.items()}
        if recipe.optimizer == "adam":
            reasons |= {name: "Adam is not linear in the gradient; see --runs all" for name in KERNELS}
            reasons["explicit"] = predict.why_not_explicit(model, task)
        if batch_norm == "train":
            reasons["finetuned"] = "the recipe has batch norm in training mode; see --runs all"
    skipped = {name: reason for name in RUNS if (reason := reasons.get(name))}
    for name in RUNS:
        if name in named and name in skipped:
            raise LinftError(f"{name} cannot be run: {skipped[name]}; leave it out of runs")
    chosen = [name for name in RUNS if name not in skipped and (not named or named & {name, "all"})]
    if not any(name.startswith("finetuned") for name in chosen):
        raise LinftError("a comparison needs reality: add finetuned or finetuned_train_bn to runs")
    return chosen, skipped


def _note(setting: Setting, name: str) -> str:
    """What a prediction drops of the recipe, or follows by draws."""
    by = "kernel" if name in KERNELS else "Jacobian"
    if setting.met.draws is None or name not in BY_SEED:
        return predict.nearest(setting.recipe, setting.batch_norm, by)[1]
    from_draws = f"{setting.met.draws} by {setting.met.draws.count} draws of every image"
    return "; ".join(filter(None, (setting.nearest(by)[1], from_draws)))


def _causes(setting: Setting) -> Mapping[str, str]:
    """The chain of runs, in which those of a kernel are no step where it follows another optimizer."""
    causes = CAUSES if setting.batch_norm == "frozen" else IN_TRAINING_MODE
    if setting.kernel_recipe.optimizer == setting.recipe.optimizer:
        return causes
    return {name: why for name, why in causes.items() if name not in KERNELS}


def _by_seeds(found: Mapping[str, Mapping[int, Trajectory]], own: int, reference: str, heads: bool) -> SeedBands:
    """Bands of the runs that were made by several seeds, and the predictions held against the real one."""
    several = {name: of for name, of in found.items() if len(of) > 1}
    bands = {name: of_name for name, of in several.items() if (of_name := band(of)) is not None}
    real, predicted = bands.get(reference), {name: of for name, of in bands.items() if name != reference}
    held = {} if real is None else {name: held_against(of, real) for name, of in predicted.items()}
    return SeedBands(
        runs={with_seed(name, s): saved(run) for name, of in several.items() for s, run in of.items() if s != own},
        real=real,
        predicted=predicted,
        agreement={name: of for name, of in held.items() if of is not None},
        heads=heads,
    )


def _with_own_statistics(run: Trajectory) -> Trajectory:
    """A run in training mode by the curves that are predicted, those with re-estimated statistics."""
    if run.reestimated is None:
        return run
    note = "statistics re-estimated at every recorded step"
    running = RunningCurves(run.steps, *(getattr(run, name) for name in Curves._fields))
    return dataclasses.replace(run, **run.reestimated._asdict(), reestimated=None, running=running, note=note)


def _reference(recipe: Recipe, trajectories: Iterable[str]) -> str:
    """The real run of the recipe as it was asked for, or the other real one."""
    order = ("finetuned_train_bn", "finetuned") if recipe.batch_norm == "train" else ("finetuned", "finetuned_train_bn")
    return next(name for name in order if name in {*trajectories})


def _places(recorded: Int[np.ndarray, "t"], chosen: Iterable[str]) -> frozenset[int]:
    """The steps at which kernels are computed again: some where a prediction stands beside them, else the last."""
    count = PLACES if {*MOVING} & {*chosen} else 1
    return frozenset(recorded[np.linspace(0, len(recorded) - 1, count + 1).round().astype(int)][1:].tolist())


def _stability(tangent: Tangent, recipe: Recipe) -> StabilityResult:
    edge = predict.stability(tangent, recipe)
    return StabilityResult(loss=recipe.loss, **vars(edge), stable=edge.stable)


def _describe_model(model: Model) -> AboutModel:
    sizes = {g: 0 for g in model.stages}
    labels = trees.labels(model.params, model.stages)
    for group, size in trees.sizes(model.params, labels):
        sizes[group] += size
    head = np.asarray(trees.get(model.params, model.head)["kernel"])
    return AboutModel(
        name=model.name,
        architecture=None if model.architecture is None else dict(model.architecture),
        num_classes=model.num_classes,
        parameters=trees.count(model.params),
        layer_groups=sizes,
        head_scale=float(head.std()),
        source=dict(model.source),
    )


def _describe_task(task: Task) -> AboutTask:
    return AboutTask(
        name=task.name,
        train_images=len(task.y_train),
        test_images=len(task.y_test),
        num_classes=task.num_classes,
        class_names=list(task.class_names),
    )
