"""What each field of a recipe is to a run, and which of its values can be predicted: one table, read by all who ask."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from linft.core.recipe import BatchNorm, Recipe

Place = Literal["number", "structure", "order"]
"""Where a field goes: into the numbers that recipes of one program may differ in; into what a program is compiled
for; or into how many steps there are, of which images."""

By = Literal["Jacobian", "kernel", "flow", "closed form", "linearized"]
"""What predicts: the replay of an optimizer in the weights, with the Jacobian; or in the kernel; gradient flow; powers
of one step; or training the linearized network."""

Means = Literal["kernel", "Jacobian"]
"""Those that replay the recipe's own minibatches."""

Whose = Literal[By, BatchNorm]
"""Limits of one of these, or of all Jacobians whose batch norm is in this mode."""

UNDER: Mapping[By, tuple[Whose, ...]] = {
    "Jacobian": ("Jacobian",),
    "kernel": ("Jacobian", "kernel"),
    "flow": ("Jacobian", "kernel", "flow"),
    "closed form": ("Jacobian", "kernel", "closed form"),
    "linearized": ("linearized",),
}
"""Of whose limits those of each consist, beside those of its kernel's batch norm."""


@dataclass(frozen=True)
class Limit:
    """The one value that a field may have, and why no other."""

    value: Any
    reason: str | Mapping[Any, str]
    """Why not, or by value why not; with {n}, the number of training images."""
    harmless: Callable[[Recipe, int], bool] = lambda recipe, n: False
    """Whether another value makes no difference to n training images."""

    def broken(self, recipe: Recipe, field: str, n: int) -> bool:
        return getattr(recipe, field) != self.value and not self.harmless(recipe, n)

    def why(self, value: Any, n: int) -> str:
        reason = self.reason if isinstance(self.reason, str) else self.reason[value]
        return reason.format(n=n)


@dataclass(frozen=True)
class Field:
    """A row of the table."""

    place: Place
    limits: Mapping[Whose, Limit]
    """By what predicts; where there is none, every value is predicted."""


def _row(place: Place, limits: Mapping[Whose, Limit] | None = None) -> Field:
    return Field(place, limits or {})


def _undecayed(recipe: Recipe, n: int) -> bool:
    return not recipe.decays


def _whole(recipe: Recipe, n: int) -> bool:
    return recipe.batch_size_for(n) == n


NO_FLOW = Limit(0.0, "weight decay has no closed flow here")
NO_CLIPPING = Limit(None, "clipping is not linear in the gradient")
NO_AVERAGE = Limit(0.0, "the average of the weights has no closed form here")
CONSTANT = "the learning rate is not constant"
REESTIMATED = "re-estimated batch norm is not the kernel's"
DELTA = "DELTA's penalty is not linear in the features"

FIELDS: Mapping[str, Field] = {
    "learning_rate": _row("number"),
    "momentum": _row("number"),
    "nesterov": _row("structure"),
    "optimizer": _row("structure", {"kernel": Limit("sgd", "Adam is not linear in the gradient")}),
    "clip_norm": _row("structure", {"flow": NO_CLIPPING, "closed form": NO_CLIPPING}),
    "ema": _row("structure", {"flow": NO_AVERAGE, "closed form": NO_AVERAGE}),
    "schedule": _row("number", {"closed form": Limit("constant", CONSTANT)}),
    "drop_at": _row("number"),
    "drop_factor": _row("number"),
    "warmup_steps": _row("number", {"closed form": Limit(0, CONSTANT)}),
    "convention": _row("structure", {"closed form": Limit("coupled", "decay is decoupled", _undecayed)}),
    "weight_decay": _row("number", {"flow": NO_FLOW}),
    "decay_groups": _row("number"),
    "l2sp": _row("number", {"flow": NO_FLOW}),
    "l2sp_groups": _row("number"),
    "decay_vectors": _row("number"),
    "rate_multipliers": _row("number"),
    "frozen_groups": _row("number"),
    "batch_size": _row("order", {"closed form": Limit(None, "the batch is not all {n} images", _whole)}),
    "steps": _row("order"),
    "epochs": _row("order"),
    "loss": _row("structure", {"closed form": Limit("squared_error", "the loss is not squared error")}),
    "label_smoothing": _row("structure"),
    "batch_norm": _row(
        "structure",
        {
            "frozen": Limit(
                "frozen",
                {"train": "batch norm is in training mode, and the kernel's is frozen", "reestimated": REESTIMATED},
            ),
            "train": Limit(
                "train",
                {"frozen": "batch norm is frozen, and the kernel's is in training mode", "reestimated": REESTIMATED},
            ),
        },
    ),
    "bn_batch_size": _row("structure"),
    "augmentation": _row("structure", {"Jacobian": Limit("none", "augmented images are not the images of the kernel")}),
    "mixup": _row("structure", {"Jacobian": Limit(0.0, "mixed images are not the images of the kernel")}),
    "delta": _row("structure", {"Jacobian": Limit(0.0, DELTA), "linearized": Limit(0.0, DELTA)}),
    "shuffle": _row("order"),
    "seed": _row("order"),
}

_DEFAULTS = {field.name: field.default for field in fields(Recipe)}


def structure(recipe: Recipe) -> Recipe:
    """The recipe without its numbers, steps and order: what a function compiled for it depends on.

    Recipes of one structure (and as many steps) share one compiled program.

    Example:
      >>> structure(Recipe(learning_rate=1.0, steps=3, nesterov=False)) == Recipe(nesterov=False)
      True
    """
    return recipe.replace(**{name: _DEFAULTS[name] for name, field in FIELDS.items() if field.place != "structure"})


def why_not(recipe: Recipe, by: By, n: int = 0, batch_norm: BatchNorm = "frozen") -> str | None:
    """Why something does not predict this recipe, on n training images; None where it does.

    Args:
      batch_norm: of the kernel, where there is one.

    Example:
      >>> why_not(Recipe(steps=1, weight_decay=0.1), "flow")
      'weight decay has no closed flow here'
    """
    reasons = [limit.why(getattr(recipe, name), n) for name, limit in _broken(recipe, by, n, batch_norm)]
    return "; ".join(dict.fromkeys(reasons)) or None


def nearest(recipe: Recipe, by: By, n: int = 0, batch_norm: BatchNorm = "frozen") -> tuple[Recipe, str]:
    """The nearest recipe that something predicts, of as many steps on n images, and what was dropped ("" if nothing).

    Args:
      batch_norm: of the kernel, where there is one.

    Example:
      >>> nearest(Recipe(steps=1, batch_norm="train", augmentation="flip"), "kernel", batch_norm="train")[1]
      'dropped: augmentation=flip'
    """
    broken = _broken(recipe, by, n, batch_norm)
    changes = {name: limit.value for name, limit in broken}
    if "batch_size" in changes:
        changes["steps"] = recipe.num_steps(n)
    dropped = ", ".join(f"{name}={getattr(recipe, name)}" for name, _ in broken)
    return recipe.replace(**changes), f"dropped: {dropped}" if dropped else ""


def _broken(recipe: Recipe, by: By, n: int, batch_norm: BatchNorm) -> list[tuple[str, Limit]]:
    whose = UNDER[by] if by == "linearized" else (*UNDER[by], batch_norm)
    limits = [(name, field.limits[of]) for name, field in FIELDS.items() for of in whose if of in field.limits]
    return [(name, limit) for name, limit in limits if limit.broken(recipe, name, n)]
