"""A source model for a zoo: trained on a source task, with what selection needs to know of it."""

from dataclasses import asdict
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float
from sklearn.metrics import balanced_accuracy_score

from linft.core.base import Model
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.models import registry
from linft.training.finetune import OnStep, finetune
from linft.zoo.class_means import class_means
from linft.zoo.load import load_model


def initial_model(task: Task, architecture: str | None, init: str | None, options: dict[str, Any], seed: int) -> Model:
    """An architecture at random weights, or a model's weights with a new head, for the classes of the task."""
    key = jax.random.key(seed)
    if init is None:
        return registry.create(str(architecture), task.num_classes, key, **options)
    return load_model(init).with_head(task.num_classes, key)


def pretrain(model: Model, task: Task, recipe: Recipe, progress: OnStep | None = None) -> Model:
    """The model trained on the task by the recipe, its source described: classes, recipe, accuracy, class means.

    Raises:
      LinftError: the training diverged.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(20, 10)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=2)
      >>> expert = pretrain(model, task, linft.Recipe(steps=1, batch_size=5, batch_norm="train"))
      >>> expert.source["train_images"], expert.class_means.means.shape
      (20, (10, 8))
    """
    steps = recipe.num_steps(len(task.y_train))
    trajectory = finetune(model, task, record_every=max(1, steps // 4), progress=progress)(recipe)
    if trajectory.diverged_at is not None or trajectory.model is None:
        raise LinftError(f"training diverged at step {trajectory.diverged_at}; use a smaller learning rate")
    model = measured(trajectory.model, task)
    return model.replace(source={**model.source, "recipe": settings(recipe)})


def measured(model: Model, task: Task, logits: Float[np.ndarray | Array, "m c"] | None = None) -> Model:
    """The model with what a zoo keeps of the task it was trained on: classes, test accuracy, class-mean features.

    Args:
      logits: of the test images, where they are known.
    """
    predicted = np.argmax(model.logits_of(task.x_test) if logits is None else logits, axis=-1)
    source = {
        "data": task.name,
        "class_names": list(task.class_names),
        "train_images": len(task.y_train),
        "test_images": len(task.y_test),
        "test_accuracy": round(float(np.mean(predicted == task.y_test)), 4),
        "balanced_accuracy": round(float(balanced_accuracy_score(task.y_test, predicted)), 4),
    }
    return model.replace(source=source, class_means=class_means(model, task))


def settings(recipe: Recipe) -> dict[str, Any]:
    """What a recipe sets differently from the defaults, as metadata keeps it."""
    return {key: value for key, value in asdict(recipe).items() if value != getattr(Recipe(), key)}
