"""The images that a run with augmentation or mixup meets, a few draws of each, as a task that can be predicted."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linft.core.base import Model
from linft.core.draws import Draws, refuse_draws
from linft.core.errors import LinftError
from linft.core.order import Order
from linft.core.recipe import Recipe
from linft.core.recipe_fields import structure
from linft.core.task import Task
from linft.data.augment import AUGMENTATIONS
from linft.data.stream import Batch
from linft.training.step import met, partners


def augmented(model: Model, task: Task, recipe: Recipe, draws: int = 4) -> Task:
    """K draws of every training image by a recipe's augmentation and mixup, to be predicted from: a Task.

    The draws are the images that `finetune(model, task)(recipe)` meets in its first K epochs, mixed ones with both
    their labels; in later epochs a prediction meets each image as any of its draws. So `dual`, `feature_dual`, `moving`
    and `explicit` follow the recipe; exactly where they are exact, if it has no more epochs than K. A longer run
    meets new images, and learns its own less by heart: its predicted loss is too low, by less with more draws. Losses
    and accuracies are those of the images as they are.

    A kernel has K N rows to train on, and is measured on N more: K times the Jacobians, K² times the kernel.

    Args:
      model: whose images these are.
      recipe: with the augmentation, mixup, minibatches and seed; recipes of other minibatches and seeds are predicted
        from the same draws.
      draws: K.

    Raises:
      LinftError: fewer than one draw, or draws of draws.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(10, 10)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=4)
      >>> recipe = linft.Recipe(learning_rate=0.01, batch_size=5, steps=4, augmentation="flip", mixup=0.2)
      >>> run = linft.predict.dual(model, augmented(model, task, recipe, draws=2))
      >>> run(recipe).train_loss.shape
      (5,)
    """
    refuse_draws(task.draws)
    if draws < 1:
        raise LinftError(f"draws is {draws}; it must be 1 or more")
    preprocessing, order = model.preprocessing, recipe.order(task.num_images)
    plain = preprocessing.resize(task.x_train)
    on_canvas = AUGMENTATIONS[recipe.augmentation].canvas
    images, sizes = preprocessing.canvas(task.x_train) if on_canvas else (plain, None)
    compiled = _met(structure(recipe), preprocessing.input_size[:2], model.dtype)
    x = np.empty((draws, *plain.shape), model.dtype)
    certain = np.eye(task.num_classes, dtype=model.dtype)[task.y_train]
    y = np.empty((draws, *certain.shape), model.dtype)
    for epoch in range(draws):
        for step, batch in _epoch(order, epoch):
            own = Batch(batch.astype(np.int32), images[batch], None if sizes is None else sizes[batch])
            x[epoch, batch], weight = compiled(own, jax.random.fold_in(jax.random.key(recipe.seed), step))
            y[epoch, batch] = weight * certain[batch] + (1 - weight) * partners(certain[batch])
    return task.replace(
        x_train=x.reshape(-1, *plain.shape[1:]),
        y_train=y.reshape(-1, task.num_classes),
        x_test=np.concatenate([plain, preprocessing.resize(task.x_test)]),
        y_test=np.concatenate([task.y_train, task.y_test]),
        draws=Draws(draws, recipe.augmentation, recipe.mixup),
    )


def _epoch(order: Order, epoch: int) -> list[tuple[int, np.ndarray]]:
    """The steps of an epoch and their images; before them those that it leaves out, with others to fill their batch."""
    begin, end = epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch
    batches = [(step, order(step)) for step in range(begin, end)]
    left = np.setdiff1d(np.arange(order.n), np.concatenate([batch for _, batch in batches]))
    filled = np.concatenate([left, batches[0][1]])[: order.batch_size]
    return [(end, filled), *batches] if len(left) else batches


@lru_cache(maxsize=8)
def _met(structure: Recipe, shape: tuple[int, int], dtype: Any) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """(batch, key of the step) -> the pixels that a step meets, and λ."""

    @jax.jit
    def at_step(batch: Batch, key: Any) -> tuple[Any, Any]:
        pixels, weight, _ = met(structure, batch, key, 0, shape, dtype)
        return pixels, jnp.ones((), dtype) if weight is None else weight

    return at_step
