"""Θ and Θ_F of models on images sorted by class, to look at (Deshpande and others 2021, Fig. 8)."""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float, Int

from linft.core import paper_recipes
from linft.core.base import Model
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.scores.alignment import alignment
from linft.scores.arrays import Undefined
from linft.scores.gather import gather
from linft.training.finetune import OnStep, finetune

SIDE = 128  # of a picture; larger kernels are shown as means of blocks


@dataclass(frozen=True)
class Picture:
    """The two kernels of one model as pictures: less their mean, over their standard deviation."""

    model: str
    epoch: int | None
    """Of a fine-tuning; None for the model as it is."""
    theta: Float[np.ndarray, "k k"]
    """Of the last convolution's gradients."""
    theta_f: Float[np.ndarray, "k k"]
    """Of the features."""
    lgc: float | None
    lfc: float | None
    borders: tuple[float, ...]
    """Where classes begin, as shares of the side."""


def picture(model: Model, task: Task, epoch: int | None = None) -> Picture:
    """The kernels of a model on a task's training images.

    Example:
      >>> import linft
      >>> shown = picture(linft.load_model("resnet14-mnist"), linft.load_task("digits").max_per_class(5))
      >>> shown.theta_f.shape, shown.borders[:3]
      ((50, 50), (0.0, 0.1, 0.2))
    """
    order = np.argsort(task.y_train, kind="stable")
    inputs = gather(model, task, ("features", "kernel")).take(order)
    theta, features = np.asarray(inputs.given("kernel"), float), inputs.features.astype(float)
    theta_f, labels = features @ features.T, inputs.labels
    begins = np.flatnonzero(np.diff(labels, prepend=-1)) / len(labels)
    return Picture(
        model.name, epoch, _shown(theta), _shown(theta_f), _alignment(theta, labels), _alignment(theta_f, labels),
        tuple(begins.tolist()),
    )  # fmt: skip


def over_epochs(
    model: Model, task: Task, recipe: Recipe | None = None, seed: int = 0, progress: OnStep | None = None
) -> list[Picture]:
    """The kernels before, halfway through and after a real fine-tuning on the task's training images.

    Args:
      recipe: by default that of Deshpande and others 2021, section 4.2: 30 epochs.
      seed: of the new head and of the order.
    """
    n = len(task.y_train)
    recipe = (recipe or paper_recipes.named("deshpande2021", n).recipe).replace(seed=seed)
    steps = recipe.num_steps(n)
    fresh = model.with_head(task.num_classes, jax.random.key(seed))
    shown = [picture(fresh, task, 0)]
    for until in (steps // 2, steps):
        run = finetune(fresh, task, record_every=max(1, steps), until=until, progress=progress)(recipe)
        if run.diverged_at is None and run.model is not None:
            epoch = round(until / max(1, n // recipe.batch_size_for(n)))
            shown.append(picture(run.model, task, epoch))
    return shown


def _shown(kernel: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "k k"]:
    """Standardized, and shrunk to means of blocks where it is large."""
    edges = np.unique(np.linspace(0, len(kernel), min(len(kernel), SIDE) + 1).astype(int))
    sums = np.add.reduceat(np.add.reduceat(kernel, edges[:-1], 0), edges[:-1], 1)
    sizes = np.diff(edges)
    means = sums / np.multiply.outer(sizes, sizes)
    spread = kernel.std()
    return (means - kernel.mean()) / (spread if spread > 0 else 1.0)


def _alignment(kernel: Float[np.ndarray, "n n"], labels: Int[np.ndarray, "n"]) -> float | None:
    try:
        return alignment(kernel, labels)
    except Undefined:
        return None
