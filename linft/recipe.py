"""How a network is fine-tuned: every setting of a run, and the order of its minibatches.

Plain Python and numpy, so that the command line can describe a recipe without importing JAX.
"""

import dataclasses
import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, Self

import numpy as np

from linft.errors import LinftError

Loss = Literal["cross_entropy", "squared_error"]


@dataclass(frozen=True)
class Recipe:
    """One fine-tuning run: optimizer, schedule, decay, layers, minibatches, loss.

    Groups are named by shell patterns over the model's layer groups (`"stage*"`). Weight decay is
    coupled, as in torch and optax: with momentum m, rate η_t and decay λ towards a reference w̄,

        g_t = ∂L/∂w + λ (w_t − w̄)
        v_t = m v_{t−1} + g_t
        w_{t+1} = w_t − η_t v_t                  (heavy ball)
        w_{t+1} = w_t − η_t (g_t + m v_t)        (Nesterov)

    Example:
      >>> recipe = Recipe(learning_rate=0.1, batch_size=4, steps=3)
      >>> recipe.batches(10).shape
      (3, 4)
    """

    learning_rate: float = 0.01
    """Learning rate η (before schedule and group multipliers)."""
    momentum: float = 0.9
    """Momentum m, from 0 up to (not including) 1."""
    nesterov: bool = True
    """Nesterov momentum; otherwise heavy ball."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Update rule. Adam is for real runs only: no kernel predicts it."""
    clip_norm: float | None = None
    """Clip the gradient to this global norm (real runs only)."""
    schedule: Literal["constant", "step", "cosine"] = "constant"
    """Shape of the learning rate over the run."""
    drop_at: tuple[float, ...] = (0.5, 0.8)
    """For the step schedule: fractions of the run after which the rate drops."""
    drop_factor: float = 0.1
    """For the step schedule: the factor of each drop."""
    warmup_steps: int = 0
    """Steps of linear warm-up from 0, under any schedule."""
    weight_decay: float = 0.0
    """Decay strength λ."""
    decay_towards: Literal["zero", "pretrained"] = "zero"
    """Where decay pulls: to zero (L2) or to the pretrained weights (L2-SP)."""
    decay_groups: tuple[str, ...] = ("*",)
    """Layer groups that decay."""
    decay_vectors: bool = True
    """Whether norm parameters and biases decay too, as in torch."""
    rate_multipliers: tuple[tuple[str, float], ...] = ()
    """Pairs of layer group and factor on the learning rate; the last match counts."""
    frozen_groups: tuple[str, ...] = ()
    """Layer groups that do not train (and do not decay)."""
    batch_size: int | None = 50
    """Images per step; None is the full batch."""
    steps: int | None = None
    """Number of updates. Give this or epochs."""
    epochs: float | None = None
    """Number of passes over the training images. Give this or steps."""
    loss: Loss = "cross_entropy"
    """Cross-entropy in nats, or half the squared distance from the one-hot labels."""
    batch_norm: Literal["frozen", "train"] = "frozen"
    """Frozen statistics, or statistics of the batch with running averages."""
    augmentation: Literal["none", "flip", "crop", "crop_flip"] = "none"
    """Random changes to the training images."""
    shuffle: bool = True
    """A new order of the training images every epoch."""
    seed: int = 0
    """Seed of the order of the images, and of augmentation and dropout."""

    def __post_init__(self):
        _require(
            math.isfinite(self.learning_rate) and self.learning_rate > 0,
            f"learning_rate is {self.learning_rate}; it must be above 0",
        )
        _require(0 <= self.momentum < 1, f"momentum is {self.momentum}; it must lie in [0, 1)")
        _require(
            math.isfinite(self.weight_decay) and self.weight_decay >= 0,
            f"weight_decay is {self.weight_decay}; it must be 0 or more",
        )
        _require(
            self.batch_size is None or self.batch_size >= 1,
            f"batch_size is {self.batch_size}; it must be 1 or more, or None for the full batch",
        )
        _require(self.steps is None or self.steps >= 0, f"steps is {self.steps}; it must be 0 or more")
        _require(self.epochs is None or self.epochs >= 0, f"epochs is {self.epochs}; it must be 0 or more")
        _require(self.steps is None or self.epochs is None, "give steps or epochs, not both")
        _require(all(0 <= f <= 1 for f in self.drop_at), f"drop_at is {self.drop_at}; give fractions of the run")
        _require(self.drop_factor >= 0, f"drop_factor is {self.drop_factor}; it must be 0 or more")
        _require(self.clip_norm is None or self.clip_norm > 0, f"clip_norm is {self.clip_norm}; it must be above 0")
        _require(self.seed >= 0, f"seed is {self.seed}; it must be 0 or more")
        _require(self.warmup_steps >= 0, f"warmup_steps is {self.warmup_steps}; it must be 0 or more")
        _require(all(f >= 0 for _, f in self.rate_multipliers), "rate multipliers must be 0 or more")
        for field in dataclasses.fields(self):
            choices = getattr(field.type, "__args__", ()) if getattr(field.type, "__origin__", None) is Literal else ()
            value = getattr(self, field.name)
            _require(
                not choices or value in choices,
                f"{field.name} is {value!r}; choose among {', '.join(map(str, choices))}",
            )

    def replace(self, **changes: Any) -> Self:
        """The same recipe with some settings changed; changing `steps` drops `epochs` and vice versa."""
        if changes.get("steps") is not None:
            changes.setdefault("epochs", None)
        if changes.get("epochs") is not None:
            changes.setdefault("steps", None)
        return dataclasses.replace(self, **changes)

    def batch_size_for(self, n: int) -> int:
        """Images per step on n training images: never more than n."""
        return n if self.batch_size is None else min(self.batch_size, n)

    def num_steps(self, n: int) -> int:
        """Number of updates on n training images."""
        if self.steps is not None:
            return self.steps
        if self.epochs is None:
            raise LinftError("give steps or epochs")
        return round(self.epochs * (n // self.batch_size_for(n)))

    def batches(self, n: int) -> np.ndarray:
        """Indices of the training images of every step, [steps, batch]: the only source of order.

        Every epoch goes through the n images once, in a fresh order drawn from (seed, epoch) if
        `shuffle`, else in the order given. A last batch that would be short is left out: its
        images wait for the next epoch.
        """
        batch, steps = self.batch_size_for(n), self.num_steps(n)
        per_epoch = n // batch
        epochs = []
        for epoch in range(math.ceil(steps / per_epoch)):
            order = np.random.default_rng([self.seed, epoch]).permutation(n) if self.shuffle else np.arange(n)
            epochs.append(order[: per_epoch * batch].reshape(per_epoch, batch))
        return np.concatenate(epochs)[:steps] if epochs else np.zeros((0, batch), np.int64)

    def rates(self, n: int) -> np.ndarray:
        """Learning rate η_t of every step, [steps], before group multipliers."""
        steps = self.num_steps(n)
        t = np.arange(steps)
        shape = np.ones(steps)
        if self.schedule == "step":
            for fraction in self.drop_at:
                shape[t >= round(fraction * steps)] *= self.drop_factor
        elif self.schedule == "cosine":
            shape = 0.5 * (1 + np.cos(np.pi * t / max(steps, 1)))
        if self.warmup_steps:
            shape = shape * np.minimum(1, (t + 1) / self.warmup_steps)
        return self.learning_rate * shape

    def multiplier(self, group: str) -> float:
        """Factor on the learning rate of one layer group; 0 where it is frozen."""
        if _matches(group, self.frozen_groups):
            return 0.0
        factors = [factor for pattern, factor in self.rate_multipliers if fnmatchcase(group, pattern)]
        return factors[-1] if factors else 1.0

    def decay(self, group: str) -> float:
        """Decay strength λ of one layer group."""
        return self.weight_decay if _matches(group, self.decay_groups) else 0.0

    def check_groups(self, groups: tuple[str, ...]) -> None:
        """Refuse a pattern that names no layer group, which would otherwise silently do nothing."""
        patterns = [*self.decay_groups, *self.frozen_groups, *(p for p, _ in self.rate_multipliers)]
        for pattern in patterns:
            _require(
                any(fnmatchcase(group, pattern) for group in groups),
                f"no layer group matches {pattern!r}; this model has {', '.join(groups)}",
            )


def _matches(group: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(group, pattern) for pattern in patterns)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise LinftError(message)
