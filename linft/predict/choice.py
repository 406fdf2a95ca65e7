"""Every kind of prediction by its name, with what was measured of some; and the one that holds an error."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from linft.core import trees
from linft.core.base import Model, Run, Trajectory
from linft.core.recipe import Recipe
from linft.core.recipe_fields import Means
from linft.core.task import Task
from linft.models.lora import has_adapters
from linft.predict.dual import dual
from linft.predict.explicit import explicit
from linft.predict.feature_dual import feature_dual
from linft.predict.feature_tangent import FeatureOutputs, feature_tangent
from linft.predict.moving import ANCHORS, SharedPaths, moving
from linft.predict.relinearized import relinearized

Head = Literal["fresh", "probe"]

AFTER = 0.25
"""Share of the steps that are real before the network is linearized again."""
MEASURED = Path(__file__).with_name("measured.json")
"""Costs and errors, written by experiments/prediction_kinds.py."""
FALLS = (0.25, 0.6, 1.0)
"""Upper bounds of how far the trace kernel predicts that the loss falls, of its first value."""


PredictMany = Callable[..., list[Trajectory]]
"""(model, task, recipes, record_every, **kernel) -> the predicted trajectories of recipes that differ in their seed."""


@dataclass(frozen=True)
class PredictionKind:
    """One way to predict a run."""

    label: str
    many: PredictMany
    cost: float | None
    """Measured seconds of one prediction, its kernel included, over the real run's, median; None: not measured."""
    errors: Mapping[Head, Sequence[float | None]]
    """Measured error of the train-loss curve, upper quartile, for each of FALLS; None where nothing was measured."""

    def run(
        self, model: Model, task: Task, recipe: Recipe, record_every: int | None = None, **kernel: Any
    ) -> Trajectory:
        """The predicted trajectory of one recipe."""
        return self.many(model, task, [recipe], record_every, **kernel)[0]


def _of_kernel(predicted: Callable[..., Run], outputs: str) -> PredictMany:
    def many(
        model: Model, task: Task, recipes: list[Recipe], record_every: int | None = None, **kernel: Any
    ) -> list[Trajectory]:
        return predicted(model, task, record_every=record_every, outputs=outputs, **kernel).many(recipes)

    return many


def _relinearized(
    model: Model, task: Task, recipes: list[Recipe], record_every: int | None = None, **kernel: Any
) -> list[Trajectory]:
    after = first_steps(recipes[0], len(task.y_train))
    kernel.pop("groups", None)  # those of the recipe, always
    return relinearized(model, task, after=after, record_every=record_every, **kernel).many(recipes)


def _of_jacobians(kernel: dict[str, Any]) -> dict[str, Any]:
    """What is asked of a kernel that Jacobians are asked too: they find the groups themselves."""
    return {name: value for name, value in kernel.items() if name in ("batch_norm", "batch_size", "progress")}


def _moving(at: Literal["network", "features"], error: float | None = None, anchors: int = ANCHORS) -> PredictMany:
    def many(
        model: Model, task: Task, recipes: list[Recipe], record_every: int | None = None, **kernel: Any
    ) -> list[Trajectory]:
        run = moving(
            model, task, at=at, error=error, anchors=anchors, record_every=record_every, **_of_jacobians(kernel)
        )
        paths = SharedPaths(run)
        return [paths.follow(recipe).noted() for recipe in recipes]

    return many


def _explicit(at: Literal["network", "features"]) -> PredictMany:
    def many(
        model: Model, task: Task, recipes: list[Recipe], record_every: int | None = None, **kernel: Any
    ) -> list[Trajectory]:
        return explicit(model, task, at=at, record_every=record_every, **_of_jacobians(kernel)).many(recipes)

    return many


def first_steps(recipe: Recipe, n: int) -> int:
    """Real steps before the network is linearized again."""
    return math.floor(AFTER * recipe.num_steps(n))


def _kinds() -> dict[str, PredictionKind]:
    ways: dict[str, tuple[str, PredictMany]] = {
        "trace": ("kernel of the network, its trace over logits", _of_kernel(dual, "trace")),
        "dual": ("kernel of the network", _of_kernel(dual, "full")),
        "features-trace": ("kernel of the features, its trace", _of_kernel(feature_dual, "trace")),
        "features-low-rank": ("kernel of the features, few directions", _of_kernel(feature_dual, "low-rank")),
        "relinearize": ("linearized again after a quarter of the steps", _relinearized),
        "features": ("kernel of the features", _of_kernel(feature_dual, "full")),
        "moving": ("kernel or Jacobian of the network, moving along its predicted path", _moving("network")),
        "moving-features": ("kernel or Jacobian of the features, few directions, moving", _moving("features")),
        "explicit": ("Jacobian of the network, in the weights", _explicit("network")),
        "explicit-features": ("Jacobian of the features along few directions, in the weights", _explicit("features")),
    }
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    nothing = {
        "cost": None,
        "errors": dict.fromkeys(get_args(Head), (None,) * 3),
    }
    kinds = {name: PredictionKind(label, many, **measured.get(name, nothing)) for name, (label, many) in ways.items()}
    return dict(sorted(kinds.items(), key=lambda item: math.inf if item[1].cost is None else item[1].cost))


KINDS = _kinds()
"""Every kind of prediction, the cheapest first."""

OF_NO_HEAD: Mapping[str, FeatureOutputs] = {"features": "full", "features-trace": "trace"}
"""Kinds whose kernel is the same under any head."""

FIRST = "trace"
"""The kind whose predicted fall of the loss is looked up."""


RUNS = Recipe(learning_rate=0.002, batch_size=32, steps=48)
"""Of the measured runs, but for rate and order: frozen batch norm, no decay, cross-entropy."""
CLASSES = (2, 16)
"""Fewest and most of the measured tasks."""
ANY = ("learning_rate", "steps", "epochs", "seed")
"""Settings in which a recipe may differ from them, or that are looked at apart."""


def unmeasured(model: Model, task: Task, recipe: Recipe, head: str, scale: float = 0.01) -> str | None:
    """In what a run is not like those whose errors were measured; None where it is like them.

    Args:
      recipe: of the real run, with what no kernel predicts.
      head, scale: how the new head was made, as in `Model.with_head`.

    Example:
      >>> import jax, linft
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=4)
      >>> unmeasured(model, linft.load_task("digits").subset(96, 10), RUNS, "probe")
      'cifar_resnet8 (measured: cifar_resnet14 from CIFAR-10)'
    """
    n, like = len(task.y_train), (model.architecture or {}).get("name", model.name)
    fields = [f.name for f in dataclasses.fields(Recipe) if f.name not in ANY]
    other = {name: (getattr(recipe, name), getattr(RUNS, name)) for name in fields}
    source = str(model.source.get("data", "an unknown source"))
    found = {
        f"{like} (measured: cifar_resnet14 from CIFAR-10)": like != "cifar_resnet14",
        f"weights from {source} (measured: CIFAR-10)": like == "cifar_resnet14" and "cifar10" not in _plain(source),
        f"a {head} head of scale {scale:g} (measured: normal of 0.01, probe)": (
            head not in ("normal", "probe") or (head == "normal" and scale != 0.01)
        ),
        "adapters (measured: all weights)": has_adapters(model),
        f"{n} training images (measured: 96)": n != 96,
        f"{task.num_classes} classes (measured: 2 to 16)": not CLASSES[0] <= task.num_classes <= CLASSES[1],
        f"{recipe.num_steps(n)} steps (measured: {RUNS.steps})": recipe.num_steps(n) != RUNS.steps,
        **{f"{name}={own} (measured: {there})": own != there for name, (own, there) in other.items()},
    }
    return ", ".join(what for what, holds in found.items() if holds) or None


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


@dataclass(frozen=True)
class ChosenKind:
    """A kind, and why."""

    kind: str
    expected: float | None
    """Error of the train-loss curve that its certificate tells; None where it tells none."""
    holds: bool
    """Whether that is within what was asked for."""
    reason: str


def fall(predicted: Trajectory) -> float | None:
    """By how much of its first value the train loss falls; None where it rises above it, or diverges."""
    loss = predicted.train_loss
    if predicted.diverged_at is not None or loss.max() > loss[0]:
        return None
    return float(1 - loss[-1] / loss[0]) if loss[0] > 0 else 0.0


def by(kind: str) -> Means:
    """By what a kind, or auto, predicts; the Jacobian too where it takes that only if no kernel follows a recipe."""
    return "Jacobian" if kind.startswith(("auto", "moving", "explicit")) else "kernel"


def auto(error: float, head: str, recipe: Recipe) -> Iterator[tuple[str, PredictMany]]:
    """Kinds, to be tried until one can be had: as `PredictionKind.many`, but for an error to be held.

    First the kind that suits the head, moving along the predicted path until its certificate holds the error, with as
    many Jacobians at most as there is memory for; then, but for Adam, the network's kernel, at last its traces.

    Args:
      error: mean |predicted − real| train loss over the mean real one.
      head: how the new head was made, as in `Model.with_head`. A random one sees the layers below only as it grows, so
        that their features are followed, and the head is exact.
      recipe: that is to be predicted.
    """
    kind, at = ("moving-features", "features") if head in ("normal", "zeros") else ("moving", "network")
    for anchors in range(ANCHORS, 0, -1):
        yield kind, _moving(at, error, anchors)
    if recipe.optimizer == "adam":
        return
    for name in ("dual", "trace"):
        yield name, KINDS[name].many


def under_heads(
    kind: str,
    many: PredictMany,
    models: Sequence[Model],
    task: Task,
    recipes: Sequence[Recipe],
    record_every: int | None = None,
    **kernel: Any,
) -> list[Trajectory]:
    """Each recipe from a model of its own, which are alike but for their heads.

    The features' kernel along all directions is of no head, and serves all; any other is computed for each.
    """
    if kind not in OF_NO_HEAD:
        return [
            many(model, task, [recipe], record_every, **kernel)[0]
            for model, recipe in zip(models, recipes, strict=True)
        ]
    tangent = feature_tangent(models[0], task, outputs=OF_NO_HEAD[kind], **kernel)
    heads = (trees.get(model.params, model.head) for model in models)
    return [
        feature_dual(tangent.with_head(head), record_every=record_every)(recipe)
        for head, recipe in zip(heads, recipes, strict=True)
    ]


def chosen(error: float, kind: str, found: Trajectory) -> ChosenKind:
    """What `auto` came to, as the prediction's certificate has it."""
    told = found.certificate
    if told is None and kind.startswith("moving"):
        return ChosenKind(kind, None, False, "what other draws of the images would do, no certificate tells")
    if told is None:
        return ChosenKind(
            kind, None, False, "no kernel that moves can be had: too little memory, or the network's layers"
        )
    return ChosenKind(
        kind, told.error, told.holds, str(told) if told.holds else f"{100 * error:g} % is not held; {told}"
    )
