"""How a network is fine-tuned: every setting of a run, its learning rates, and what holds for a layer group.

Plain Python and numpy, so that the command line can describe a recipe without importing JAX.
"""

import dataclasses
import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, Self

import numpy as np

from linft.core.errors import LinftError
from linft.core.order import Order

Loss = Literal["cross_entropy", "squared_error"]
BatchNorm = Literal["frozen", "train"]
"""Whose statistics a linearized network's batch norm has: fixed ones, or those of a batch, which its weights move."""
AugmentationName = Literal[
    "none",
    "flip",
    "crop",
    "crop_flip",
    "resized_crop",
    "short_side_crop",
    "short_side_crop_flip",
    "li2020_resized_crop",
    "li2020_crop",
    "li2020_flip",
]


@dataclass(frozen=True)
class Recipe:
    """One fine-tuning run: optimizer, schedule, decay, layers, minibatches, loss.

    Groups are named by shell patterns: without a dot over the model's stages, each of which stands for all
    of its layer groups (`"stem"`, `"stage*"`), with one over the layer groups (`"stage3.block*"`). With
    momentum m, rate η_t and decay λ towards a reference w̄, the coupled convention is that of torch and optax:

        g_t = ∂L/∂w + λ (w_t − w̄)
        v_t = m v_{t−1} + g_t
        w_{t+1} = w_t − η_t v_t                  (heavy ball)
        w_{t+1} = w_t − η_t (g_t + m v_t)        (Nesterov)

    and the decoupled one that of Li and others 2020 (eq. 1 and 2, whose signs are read so that v
    descends, and whose η in eq. 2 is read as η_t): the rate is inside the velocity, which so keeps
    the old rate's pace after a drop, and decay passes by gradient and velocity.

        v_{t+1} = m v_t + η_t ∂L/∂w(w_t)                      (heavy ball)
        v_{t+1} = m v_t + η_t ∂L/∂w(w_t − m v_t)              (Nesterov)
        w_{t+1} = w_t − v_{t+1} − η_t λ (w_t − w̄)

    Without decay and at a constant rate the two are the same. Adam takes β1 = m, β2 = 0.999 and ε = 1e-8, whatever
    `nesterov` says; the coupled convention is torch's Adam, with decay in the gradient, and the decoupled one AdamW:

        m_{t+1} = β1 m_t + (1 − β1) g_t,   v_{t+1} = β2 v_t + (1 − β2) g_t²,   g_t = ∂L/∂w
        w_{t+1} = w_t − η_t [ m_{t+1} / (1 − β1^{t+1}) / (√(v_{t+1} / (1 − β2^{t+1})) + ε) + λ (w_t − w̄) ]

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
    """Update rule. No kernel predicts Adam; the Jacobian itself does."""
    clip_norm: float | None = None
    """Clip the gradient of what trains to this global norm, before decay is added."""
    ema: float = 0.0
    """Decay d of the weights' average w̄_{t+1} = d w̄_t + (1 − d) w_{t+1} from w̄_0 = w_0, at which a run is measured
    and ends, with the running averages of batch norm in training mode likewise (timm's ModelEma); 0 is none."""
    schedule: Literal["constant", "step", "cosine"] = "constant"
    """Shape of the learning rate over the run."""
    drop_at: tuple[float, ...] = (0.5, 0.8)
    """For the step schedule: fractions of the run after which the rate drops."""
    drop_factor: float = 0.1
    """For the step schedule: the factor of each drop."""
    warmup_steps: int = 0
    """Steps of linear warm-up from 0, under any schedule."""
    convention: Literal["coupled", "decoupled"] = "coupled"
    """How rate, velocity and decay meet: as in torch, or as in Li and others 2020; with Adam, as in AdamW."""
    weight_decay: float = 0.0
    """Decay strength λ towards zero (L2; β of L2-SP)."""
    decay_groups: tuple[str, ...] = ("*",)
    """Layer groups that decay."""
    l2sp: float = 0.0
    """Decay strength α towards the pretrained weights (L2-SP), instead of λ, on `l2sp_groups`."""
    l2sp_groups: tuple[str, ...] = ("*",)
    """Layer groups that L2-SP holds; name transferred ones, since it pulls any other to its random start."""
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
    label_smoothing: float = 0.0
    """ε of the targets (1 − ε) e_y + ε/C that are trained towards; recorded losses are of the labels themselves."""
    batch_norm: Literal["frozen", "train", "reestimated"] = "frozen"
    """Frozen statistics, those of the batch with running averages, or the task's, then frozen."""
    bn_batch_size: int | None = None
    """In training mode, statistics over parts of so many images of a batch; None: over the whole batch."""
    augmentation: AugmentationName = "none"
    """Random changes to the training images."""
    mixup: float = 0.0
    """α of mixup: images and labels in pairs, weighted by a draw from Beta(α, α); 0 is none."""
    delta: float = 0.0
    """Strength of DELTA, the penalty on moved feature maps (real runs only)."""
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
        for name in ("ema", "label_smoothing"):
            _require(0 <= getattr(self, name) < 1, f"{name} is {getattr(self, name)}; it must lie in [0, 1)")
        for name in ("weight_decay", "l2sp", "mixup", "delta"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value >= 0, f"{name} is {value}; it must be 0 or more")
        _require(
            self.bn_batch_size is None or self.bn_batch_size >= 2,
            f"bn_batch_size is {self.bn_batch_size}; it must be 2 or more, or None for the whole batch",
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
        _require(0 <= self.seed < 2**31, f"seed is {self.seed}; it must lie in [0, 2³¹)")
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

    def order(self, n: int) -> Order:
        """Which of n training images every step takes."""
        return Order(n, self.batch_size_for(n), self.num_steps(n), self.seed if self.shuffle else None)

    def batches(self, n: int) -> np.ndarray:
        """Indices of the training images of every step, [steps, batch]: epoch after epoch."""
        return self.order(n).batches()

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
        if matches(group, self.frozen_groups):
            return 0.0
        factors = [factor for pattern, factor in self.rate_multipliers if matches(group, (pattern,))]
        return factors[-1] if factors else 1.0

    def decay(self, group: str) -> tuple[float, float]:
        """Decay strength of one layer group, and its reference: 0 for zero, 1 for the pretrained weights."""
        if self.l2sp > 0 and matches(group, self.l2sp_groups):
            return self.l2sp, 1.0
        return (self.weight_decay if matches(group, self.decay_groups) else 0.0), 0.0

    @property
    def decays(self) -> bool:
        """Whether anything decays."""
        return self.weight_decay > 0 or self.l2sp > 0

    def check_groups(self, groups: tuple[str, ...]) -> None:
        """Refuse a pattern that names no layer group, which would otherwise silently do nothing."""
        patterns = [*self.decay_groups, *self.l2sp_groups, *self.frozen_groups, *(p for p, _ in self.rate_multipliers)]
        for pattern in patterns:
            finer = "; a kernel of finer groups has groups=optimizer.kernel_groups(model.layer_groups, recipe)"
            _require(
                any(matches(group, (pattern,)) for group in groups),
                f"no layer group matches {pattern!r}; this model has {', '.join(groups)}" + finer * ("." in pattern),
            )


def matches(group: str, patterns: tuple[str, ...]) -> bool:
    """Whether a layer group is named by one of the patterns, of which those without a dot name stages."""
    stage = group.partition(".")[0]
    return any(fnmatchcase(group if "." in pattern else stage, pattern) for pattern in patterns)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise LinftError(message)
