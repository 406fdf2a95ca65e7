"""The small network that is trained on the target alone: RSA's reference, and what pretraining must beat."""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float

from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.models import registry
from linft.training.finetune import finetune

ARCHITECTURE, HELD_OUT = "cifar_resnet8", 0.2
RECIPE = Recipe(learning_rate=0.05, schedule="cosine", weight_decay=5e-4, batch_size=32, epochs=30, batch_norm="train")


@dataclass(frozen=True)
class SmallNetwork:
    """What a network knows that has seen nothing but the target."""

    features: Float[np.ndarray, "n d"]
    """Of the task's training images."""
    accuracy: float | None
    """On a fifth of them that it was not trained on; None where a class has too few images for that."""


def small_network(task: Task, seed: int = 0) -> SmallNetwork:
    """Train a ResNet-8 from random weights on four fifths of a task's training images, by `RECIPE`.

    Deshpande and others 2021 (appendix C) train a ResNet-18 for RSA (Dwivedi and Roig 2019); at a few
    images a class a smaller network on the 32×32 image serves, and the cost stays below one fine-tuning.

    Args:
      task: the sampled images; its test part is not looked at.
      seed: of the weights, of the order and of which images are held out.

    Raises:
      LinftError: the training diverged.

    Example:
      >>> import linft
      >>> small = small_network(linft.load_task("digits").max_per_class(5))
      >>> small.features.shape, 0 <= small.accuracy <= 1
      ((50, 64), True)
    """
    try:
        split, holds_out = task.holdout(HELD_OUT, seed), True
    except LinftError:
        split, holds_out = task.replace(x_test=task.x_train, y_test=task.y_train), False
    model = registry.create(ARCHITECTURE, task.num_classes, jax.random.key(seed))
    recipe = RECIPE.replace(seed=seed)
    trained = finetune(model, split, record_every=recipe.num_steps(len(split.y_train)) or 1)(recipe)
    if trained.diverged_at is not None or trained.model is None:
        raise LinftError(f"the small network's training diverged at step {trained.diverged_at}; leave out rsa")
    features = np.asarray(trained.model.features_of(task.x_train))
    return SmallNetwork(features, float(trained.test_accuracy[-1]) if holds_out else None)
