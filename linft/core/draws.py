"""Training images augmented or mixed at random, a few draws of each: which of them every step of a run meets."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from linft.core.errors import LinftError
from linft.core.order import Order
from linft.core.recipe import AugmentationName, Recipe


@dataclass(frozen=True)
class Draws:
    """K draws of each of n images, as rows [K n]: one of every image, then another of every image, and so on.

    In its first K epochs a run meets the draws of an image one after another, later any of them at random.

    Example:
      >>> draws = Draws(count=2, augmentation="flip", mixup=0.0)
      >>> draws.rows(Order(n=3, batch_size=3, steps=2, seed=None)).tolist()
      [[0, 1, 2], [3, 4, 5]]
    """

    count: int
    """K."""
    augmentation: AugmentationName
    mixup: float
    """As of the recipe whose images these are."""

    def __str__(self) -> str:
        return f"augmentation={self.augmentation}, mixup={self.mixup:g}"

    def are_of(self, recipe: Recipe) -> bool:
        """Whether a recipe augments and mixes as these are drawn."""
        return (recipe.augmentation, recipe.mixup) == (self.augmentation, self.mixup)

    def rows(self, order: Order) -> Int[np.ndarray, "steps batch"]:
        """Of the images of every step, which draw."""
        batches = order.batches()
        met = [self._met(order, step // order.steps_per_epoch)[batch] for step, batch in enumerate(batches)]
        return batches + order.n * np.array(met, batches.dtype).reshape(batches.shape)

    def _met(self, order: Order, epoch: int) -> Int[np.ndarray, "n"]:
        """The draw of each image in an epoch."""
        if epoch < self.count:
            return np.full(order.n, epoch)
        return np.random.default_rng([order.seed or 0, epoch, 1]).integers(self.count, size=order.n)


def refuse_draws(draws: Draws | None) -> None:
    """Where images are to be taken as they are.

    Raises:
      LinftError: they are draws.
    """
    if draws is not None:
        raise LinftError("draws of images are for predictions by replay of the recipe; pass the task itself")


def still(recipe: Recipe) -> Recipe:
    """The recipe without augmentation and mixup."""
    return recipe.replace(augmentation="none", mixup=0.0)
