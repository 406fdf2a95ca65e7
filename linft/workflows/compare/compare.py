"""`compare`: predict a fine-tuning run, make it for real, and lay the two side by side."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np

from linft import predict
from linft.core import trees
from linft.core.base import BatchNorm, Model, Outputs, Tangent, Trajectory
from linft.core.errors import LinftError
from linft.core.forward_pass import equal_size
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.core.trajectory_json import saved
from linft.models.linearize import linearize
from linft.ntk.empirical import Engine, empirical_ntk
from linft.predict.eigen import too_large
from linft.predict.spectrum import Drift, drift, spectrum
from linft.predict.tangent import in_mode, mode, to_trace
from linft.runtime.progress import Progress
from linft.runtime.versions import versions
from linft.training.finetune import OnStep, finetune
from linft.training.optimizer import kernel_groups
from linft.workflows.compare.agreement import agreement
from linft.workflows.compare.attribution import CAUSES, IN_TRAINING_MODE, attribute
from linft.workflows.compare.result import (
    FILE,
    AboutModel,
    AboutTask,
    ComparisonResult,
    KernelResult,
    StabilityResult,
)
from linft.workflows.compare.store import Store

DRIFT_IMAGES = 64  # or one batch of the kernel, where that is more


@dataclass(frozen=True)
class Comparison:
    """Predicted and real runs of one recipe, and how they agree."""

    result: ComparisonResult
    """What `result.json` holds; `linft.report.write` makes a page of it."""
    runs: dict[str, Trajectory]
    tangent: Tangent


@dataclass(frozen=True)
class Setting:
    """What every run of a comparison is made from."""

    model: Model
    task: Task
    recipe: Recipe
    tangent: Tangent
    record_every: int | None
    progress: OnStep

    @property
    def batch_norm(self) -> BatchNorm:
        """Of the kernel, and of what is linearized."""
        return mode(self.model, self.recipe)

    @cached_property
    def kernel_recipe(self) -> Recipe:
        """The nearest recipe that the kernel predicts."""
        return predict.nearest(self.recipe, self.batch_norm)[0]

    @cached_property
    def full_batch(self) -> Recipe:
        n = len(self.task.y_train)
        return self.kernel_recipe.replace(batch_size=None, steps=self.kernel_recipe.num_steps(n))

    @cached_property
    def no_momentum(self) -> Recipe:
        rate = self.full_batch.learning_rate / (1 - self.full_batch.momentum)
        return self.full_batch.replace(momentum=0.0, learning_rate=rate)

    @cached_property
    def trace(self) -> Tangent:
        return to_trace(self.tangent) if self.tangent.kernel_train.outputs == "full" else self.tangent

    def move(self, at: Literal["network", "features"], outputs: Outputs) -> Trajectory:
        """Predict with a kernel that moves."""
        run = predict.moving(
            self.model,
            self.task,
            at=at,
            outputs=outputs,
            batch_norm=self.batch_norm,
            record_every=self.record_every,
        )
        return run.follow(self.kernel_recipe).noted()

    def train(self, model: Model, batch_norm: str) -> Trajectory:
        """Train weights."""
        run = finetune(model, self.task, record_every=self.record_every, progress=self.progress)
        return run(self.recipe.replace(batch_norm=batch_norm))


RUNS: dict[str, Callable[[Setting], Trajectory]] = {
    "finetuned_train_bn": lambda s: s.train(s.model, "train"),
    "finetuned": lambda s: s.train(s.model, "frozen"),
    "moving": lambda s: s.move("network", s.tangent.kernel_train.outputs),
    "moving_features": lambda s: s.move("features", "full"),
    "feature_linearized": lambda s: s.train(linearize(s.model, "features", s.batch_norm), s.batch_norm),
    "linearized": lambda s: s.train(linearize(s.model, batch_norm=s.batch_norm), s.batch_norm),
    "dual": lambda s: predict.dual(s.tangent, record_every=s.record_every)(s.kernel_recipe),
    "spectral": lambda s: predict.spectral(s.tangent, record_every=s.record_every)(s.kernel_recipe),
    "gradient_flow": lambda s: predict.gradient_flow(s.tangent, record_every=s.record_every)(s.kernel_recipe),
    "dual_trace": lambda s: predict.dual(s.trace, record_every=s.record_every)(s.kernel_recipe),
    "dual_full_batch": lambda s: predict.dual(s.trace, record_every=s.record_every)(s.full_batch),
    "dual_no_momentum": lambda s: predict.dual(s.trace, record_every=s.record_every)(s.no_momentum),
    "flow_trace": lambda s: predict.gradient_flow(s.trace, record_every=s.record_every)(s.no_momentum),
}
"""Every run that a comparison can make, from reality to theory."""

ON_REQUEST = {
    "feature_linearized": "trained in weights, which takes as long as the real run",
    "linearized": "trained in weights, which takes as long as the real run",
    "moving": "which takes the Jacobians at several weights",
    "moving_features": "which takes the Jacobians at several weights",
}
"""Runs that are made only where they are named, and why."""

MOVING = ("moving", "moving_features")
"""Predictions of the weights, so that the kernel at the end is predicted too."""

PREDICTED = tuple(name for name in RUNS if not name.startswith("finetuned") and not name.endswith("linearized"))


def compare(
    model: Model,
    task: Task,
    recipe: Recipe,
    runs: Sequence[str] | None = None,
    output: str | Path | None = None,
    *,
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
      record_every: measure every so many steps; about a dozen times by default.
      outputs, engine, batch_size: of the kernel, as in `empirical_ntk`.
      progress: called as work goes on.

    Raises:
      LinftError: unknown runs, a head that does not fit, too little memory, or an output directory
        that holds another comparison.

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
    groups = kernel_groups(model.layer_groups, recipe)
    options = dict(record_every=record_every, outputs=outputs, engine=engine)
    store = Store.open(output, "compare", model, task, recipe, options)
    kernel_begin = time.perf_counter()
    tangent = store.tangent(
        lambda: predict.tangent(
            model,
            task,
            groups=groups,
            outputs=outputs,
            engine=engine,
            batch_size=batch_size,
            batch_norm=mode(model, recipe),
            progress=lambda done, total: tell("kernel", done, total),
        )
    )
    kernel_seconds = time.perf_counter() - kernel_begin
    setting = Setting(model, task, recipe, tangent, record_every, lambda *_: None)
    trajectories, drifts = {}, {}
    for name in sorted(chosen, key=lambda name: name not in PREDICTED):  # before the truth is known
        real = name == _reference(recipe, chosen)

        def make(name: str = name, real: bool = real) -> tuple[Trajectory, Drift | None]:
            progress = partial(tell, name)
            trajectory = RUNS[name](dataclasses.replace(setting, progress=lambda step, of, loss: progress(step, of)))
            note = predict.nearest(recipe, setting.batch_norm)[1] if name in PREDICTED else ""
            settled = (real or name in MOVING) and trajectory.diverged_at is None
            drifted = _drift(tangent, trajectory.model, task, groups, batch_size) if settled else None
            return dataclasses.replace(trajectory, note="; ".join(filter(None, (note, trajectory.note)))), drifted

        trajectories[name], drifts[name] = store.run(name, make)
        if name in PREDICTED:
            tell(name, 1, 1)
    trajectories = {name: trajectories[name] for name in chosen}
    if setting.batch_norm == "train":
        trajectories = {name: _with_own_statistics(trajectory) for name, trajectory in trajectories.items()}
    reference = _reference(recipe, trajectories)
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
        attribution=attribute(trajectories, CAUSES if setting.batch_norm == "frozen" else IN_TRAINING_MODE),
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
        stability=_stability(tangent, setting.kernel_recipe),
        versions=versions(),
        seconds=time.perf_counter() - begin,
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
        "finetuned_train_bn": None if model.batch_stats else "the model has no batch norm",
        "spectral": predict.why_not_spectral(near, n, batch_norm) or too_large(n * task.num_classes),
        "gradient_flow": predict.why_not_flow(near, outputs, batch_norm)
        or (too_large(n * task.num_classes) if outputs == "full" else None),
        "flow_trace": predict.why_not_flow(near, "trace", batch_norm),
    }
    if not named:
        reasons |= {name: f"{why}; see --runs all" for name, why in ON_REQUEST.items()}
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


def _with_own_statistics(run: Trajectory) -> Trajectory:
    """A run in training mode by the curves that are predicted, those with re-estimated statistics."""
    if run.reestimated is None:
        return run
    return dataclasses.replace(run, **run.reestimated._asdict(), note="statistics re-estimated at every recorded step")


def _reference(recipe: Recipe, trajectories: Iterable[str]) -> str:
    """The real run of the recipe as it was asked for, or the other real one."""
    order = ("finetuned_train_bn", "finetuned") if recipe.batch_norm == "train" else ("finetuned", "finetuned_train_bn")
    return next(name for name in order if name in {*trajectories})


def _drift(tangent: Tangent, tuned: Model | None, task: Task, groups: trees.Groups, batch_size: int) -> Drift:
    """Kernel before and after fine-tuning, as traces, on the first training images.

    Both in outputs and batches of one shape, so that what was compiled for the first serves the second.
    """
    assert tuned is not None
    tuned = in_mode(tuned, task, tangent.batch_norm)
    size = equal_size(len(task.y_train), batch_size)
    n = min(len(task.y_train), size * max(1, DRIFT_IMAGES // size))
    after = empirical_ntk(
        tuned,
        tuned.preprocess(task.x_train[:n]),
        outputs=tangent.kernel_train.outputs,
        groups=groups,
        engine=tangent.kernel_train.engine,
        batch_size=size,
        draws=8,
    )
    before = {g: block[:n, :n] for g, block in tangent.kernel_train.traces().items()}
    return drift(before, after.traces())


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
