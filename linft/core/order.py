"""Which training images every step of a run takes: the only source of order, for real runs and predicted ones."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Order:
    """The minibatches of a run on n training images, epoch after epoch, from `Recipe.order(n)`.

    All n images once an epoch, in a fresh order drawn from (seed, epoch). A last batch that would be short is
    left out: its images wait for the next epoch. Epochs are drawn when reached, so that an order of any length
    takes the memory of two.

    Example:
      >>> order = Order(n=5, batch_size=2, steps=3, seed=None)
      >>> order(1).tolist(), order.batches().tolist()
      ([2, 3], [[0, 1], [2, 3], [0, 1]])
    """

    n: int
    batch_size: int
    steps: int
    seed: int | None
    """None: every epoch in the order given."""

    @property
    def steps_per_epoch(self) -> int:
        return self.n // self.batch_size

    def __call__(self, step: int) -> np.ndarray:
        """Indices of the training images of one step, [batch]; the order goes on beyond its steps."""
        epoch, row = divmod(step, self.steps_per_epoch)
        return _epoch(self.n, self.batch_size, self.seed, epoch)[row]

    def batches(self) -> np.ndarray:
        """Indices of the training images of every step, [steps, batch]."""
        epochs = range(math.ceil(self.steps / self.steps_per_epoch))
        drawn = [_epoch(self.n, self.batch_size, self.seed, epoch) for epoch in epochs]
        return np.concatenate(drawn)[: self.steps] if drawn else np.zeros((0, self.batch_size), np.int64)


@lru_cache(maxsize=2)  # threads read ahead across the border of two epochs
def _epoch(n: int, batch_size: int, seed: int | None, epoch: int) -> np.ndarray:
    """Indices of one epoch's steps, [steps an epoch, batch]."""
    order = np.arange(n) if seed is None else np.random.default_rng([seed, epoch]).permutation(n)
    return order[: n // batch_size * batch_size].reshape(-1, batch_size)
