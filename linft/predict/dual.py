"""Exact prediction of minibatch SGD on the linearized network, in function space, by replaying its batches.

The weights of every group stay w_g = γ_g w0_g + J_gᵀ α_g, so the optax chain that trains weights
runs on the coordinates (α_g, γ_g) instead: the gradient of the loss with respect to the batch's
logits is scattered into α, and decay pulls (α, γ) towards (0, 0) or (0, 1).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Array

from linft.core import recipe_fields
from linft.core.base import BatchNorm, Model, Tangent, Trajectory
from linft.core.draws import Draws, still
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.core.recipe_fields import By, Means
from linft.core.task import Task
from linft.core.trees import Tree
from linft.predict import replay
from linft.predict.replay import Network, on_images
from linft.predict.span import BundleItems, OnBatch, Span, bundle, from_pretrained, items, span
from linft.predict.tangent import tangent as tangent_of
from linft.training import optimizer


def why_not(recipe: Recipe, batch_norm: BatchNorm = "frozen") -> str | None:
    """Why no kernel predicts this recipe, with batch norm frozen or in training mode; None where one does.

    Example:
      >>> why_not(Recipe(steps=1, batch_norm="train"))
      "batch norm is in training mode, and the kernel's is frozen"
      >>> why_not(Recipe(steps=1, batch_norm="train"), "train") is None
      True
    """
    return recipe_fields.why_not(recipe, "kernel", batch_norm=batch_norm)


def nearest(
    recipe: Recipe,
    batch_norm: BatchNorm = "frozen",
    by: Means = "kernel",
    *,
    from_draws: bool = False,
) -> tuple[Recipe, str]:
    """The nearest recipe that a kernel predicts, and what was dropped ("" if nothing).

    Args:
      batch_norm: of the kernel.
      by: the Jacobian itself, as in `predict.explicit`, where that predicts.
      from_draws: augmentation and mixup are kept, for a kernel of draws of images (`predict.augmented`).

    Example:
      >>> nearest(Recipe(steps=1, batch_norm="train", optimizer="adam"), "train")[1]
      'dropped: optimizer=adam'
    """
    if not from_draws:
        return recipe_fields.nearest(recipe, by, batch_norm=batch_norm)
    near, dropped = recipe_fields.nearest(still(recipe), by, batch_norm=batch_norm)
    return near.replace(augmentation=recipe.augmentation, mixup=recipe.mixup), dropped


def dual(model: Model | Tangent, task: Task | None = None, *, record_every: int | None = None, **kernel: Any) -> "Dual":
    """Predict fine-tuning from the tangent kernel, replaying the real run's minibatches: a Run.

        f = f0 + Σ_g [Θ_g α_g + (γ_g − 1) J_g w0_g],  ‖w_g − w0_g‖² = αᵀΘ_gα + 2(γ−1)w0ᵀJ_gᵀα + (γ−1)²‖w0_g‖²

    Exact for the linearized network under momentum, schedules, minibatches, decay and group rates,
    for either loss; one row-block of the kernel a step. `many` runs recipes of one structure and
    order of images in one vmapped program, where a step is one matrix product for all of them.
    With batch_norm="train" it predicts recipes in training mode: the network is linearized with the training
    images' statistics as functions of the weights, and losses and accuracies, train and test, are those with
    the statistics re-estimated at every step (a real run's `Trajectory.reestimated`).

    Args:
      model, task: from which the Tangent is computed; or a Tangent alone.
      record_every: measure every so many steps; about a dozen times by default.
      **kernel: groups, outputs, batch_norm, engine, batch_size, draws, progress of `predict.tangent`.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(10, 10)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=4)
      >>> run = dual(model, task)
      >>> run(linft.Recipe(learning_rate=0.01, batch_size=5, steps=4)).train_loss.shape
      (5,)
    """
    return Dual(as_tangent(model, task, **kernel), record_every)


def as_tangent(model: Model | Tangent, task: Task | None, **kernel: Any) -> Tangent:
    """The Tangent given, or that of a model and a task."""
    if isinstance(model, Tangent):
        if task is not None or kernel:
            raise LinftError("a Tangent carries its task and kernel already; pass it alone")
        return model
    if task is None:
        raise LinftError("pass a model and a task, or a Tangent alone")
    return tangent_of(model, task, **kernel)


@dataclass(frozen=True)
class Dual:
    """The Run that `dual` gives."""

    tangent: Tangent
    record_every: int | None = None

    @property
    def batch_norm(self) -> BatchNorm:
        """Of the recipes that it takes."""
        return self.tangent.batch_norm

    def __call__(self, recipe: Recipe) -> Trajectory:
        return self.many([recipe])[0]

    def many(self, recipes: Iterable[Recipe]) -> list[Trajectory]:
        """One compiled program for all recipes of one structure and one sequence of minibatches."""
        taken = predictable(recipes, self.batch_norm, self.tangent.draws)
        return replay.many(taken, self.tangent.num_images, self._family)

    def _family(self, recipes: list[Recipe]) -> list[Trajectory]:
        t = self.tangent
        bundles, settings = bundle([optimizer.settings(recipe, t.groups, t.num_images) for recipe in recipes])
        found = replay.replay(_network, items(bundles), t, settings, recipes, t.rows(recipes[0]), self.record_every)
        return [replayed.trajectory for replayed in found]


def predictable(
    recipes: Iterable[Recipe],
    batch_norm: BatchNorm,
    draws: Draws | None = None,
    by: Means = "kernel",
) -> list[Recipe]:
    """The recipes, of which none may be one that a kernel of such draws does not predict, batch norm in this mode."""
    recipes = list(recipes)
    for recipe in recipes:
        if draws is not None and not draws.are_of(recipe):
            raise LinftError(f"the {by} is of draws by {draws}, and the recipe has other ones; draw for the recipe")
        if reason := recipe_fields.why_not(recipe if draws is None else still(recipe), by, batch_norm=batch_norm):
            raise LinftError(f"no {by} predicts this recipe: {reason}; {instead(recipe, batch_norm, by)}")
    return recipes


def instead(recipe: Recipe, batch_norm: BatchNorm, by: By) -> str:
    """What to do about a recipe that is not predicted by something."""
    if recipe.batch_norm != batch_norm and recipe.batch_norm != "reestimated":
        return f'pass batch_norm="{recipe.batch_norm}" to get its {by}'
    if why_not(recipe, batch_norm) is None:
        return "use predict.dual"
    if recipe_fields.why_not(recipe, "Jacobian", batch_norm=batch_norm) is None:
        return "use predict.moving or predict.explicit"
    if by in ("kernel", "Jacobian") and recipe_fields.why_not(still(recipe), by, batch_norm=batch_norm) is None:
        return f'predict from a few draws, predict.augmented(…), or use predict.nearest(recipe, "{batch_norm}")'
    return f'use predict.nearest(recipe, "{batch_norm}")'


def _network(names: BundleItems, tangent: Tangent) -> Network:
    return of_logits(span(names, from_pretrained(tangent)), tangent)


def of_logits(reach: Span, tangent: Tangent) -> Network:
    """The network whose logits move as a span says, from those of a tangent."""

    def of_batch(at: Tree, batch: Array) -> OnBatch:
        found = reach.of_batch(at, batch)
        return found._replace(outputs=tangent.logits_train[batch] + found.outputs)

    def logits(at: Tree) -> tuple[Array, Array]:
        return tangent.logits_train + reach.on_train(at), tangent.logits_test + reach.on_test(at)

    network = Network(
        origin=reach.origin,
        here=reach.here,
        groups={b: b for b in reach.origin},
        of_batch=of_batch,
        logits=logits,
        lengths=reach.lengths,
        towards=tangent.labels_train,
        labels_train=tangent.labels_train,
        labels_test=tangent.labels_test,
    )
    return on_images(network, tangent.draws)
