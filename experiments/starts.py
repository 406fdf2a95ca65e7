"""Where runs of the experiments on hyperparameters start: images, models with new layers, and their kernels."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from options import Options, Scale

import linft
from linft import predict
from linft.core.base import Model, Tangent, Task
from linft.core.trees import digest
from linft.models import batch_norm
from linft.models.reinitialize import reinitialize, with_new_layers
from linft.predict.tangent import kept
from linft.training.optimizer import kernel_groups

Part = Literal["test", "held-out"]
"""Images on which a run is measured: the test part's, or training images on which no run is trained."""

SOURCE = "resnet14-cifar10"
SCRATCH = "scratch"
"""In place of a model's name: its architecture at random weights."""
NEAR, FAR = ("ucmerced16", "hymenoptera"), ("sign_digits", "digits")
"""Photographs, as the source's images are; and signs of hands and digits, which are not."""
KERNELS = Path("runs/kernels")


@dataclass(frozen=True)
class Sizes:
    """Sizes of every run."""

    train_images: int = 128
    test_images: int = 200
    """At most; equally many of each class, so that the error is the mean of the classes' errors."""
    batch_size: int = 16
    short: int = 30
    long: int = 120
    """Steps of the two budgets."""
    record_every: int = 30
    real_points: int | None = None
    """At most so many of each block of a grid are really run; None: all."""

    def recipe(self, **changes: Any) -> linft.Recipe:
        """The long budget at a constant rate, batch norm frozen; Nesterov momentum 0.9."""
        return linft.Recipe(learning_rate=0.01, batch_size=self.batch_size, steps=self.long).replace(**changes)

    @property
    def budgets(self) -> dict[str, int]:
        """Steps by the name of the budget."""
        return {"short": self.short, "long": self.long}


SIZES: dict[Scale, Sizes] = {
    "smoke": Sizes(train_images=16, test_images=20, batch_size=8, short=1, long=2, record_every=1, real_points=1),
    "laptop": Sizes(),
}


@cache
def loaded(name: str) -> Model:
    """A shipped model, or its architecture at random weights."""
    if name != SCRATCH:
        return linft.load_model(name)
    like = loaded(SOURCE)
    return reinitialize(like, len(like.layer_groups), jax.random.key(1)).replace(name=SCRATCH)


def task_of(name: str, options: Options, part: Part = "test") -> Task:
    """Training images in proportion to the classes; of a part images in equal numbers."""
    whole, sizes = linft.load_task(options.source(name)), SIZES[options.scale]
    numbered = whole.replace(x_train=np.arange(len(whole.y_train))).subset(sizes.train_images, seed=0)
    drawn: np.ndarray = numbered.x_train
    rest = np.setdiff1d(np.arange(len(whole.y_train)), drawn)
    parts = {"test": (whole.x_test, whole.y_test), "held-out": (whole.x_train[rest], whole.y_train[rest])}
    images, labels = parts[part]
    each = min(sizes.test_images // whole.num_classes, int(np.bincount(labels).min()))
    of_part = whole.replace(x_train=images, y_train=labels).few_shot(each, seed=0)
    return Task(
        x_train=whole.x_train[drawn],
        y_train=whole.y_train[drawn],
        x_test=of_part.x_train,
        y_test=of_part.y_train,
        name=name,
        class_names=whole.class_names,
    )


def start(name: str, task: Task, reinit_groups: int = 1) -> Model:
    """The model with new last layers; with the batch-norm statistics of the task's images where a norm is new.

    New norms have means of 0 and variances of 1, and those above them have seen other inputs.
    """
    model = with_new_layers(loaded(name), task, 0, reinit_groups)
    return batch_norm.reestimated(model, task.x_train) if name == SCRATCH or reinit_groups > 1 else model


def tangent_of(name: str, task: Task, reinit_groups: int, recipes: Iterable[linft.Recipe]) -> Tangent:
    """The kernel of a start in as many groups as some recipes need, kept on disk under the digests of what it is of."""
    KERNELS.mkdir(parents=True, exist_ok=True)
    model = start(name, task, reinit_groups)
    groups = kernel_groups(model.layer_groups, *recipes)
    of = f"{model.digest}-{task.digest}-{digest(tuple(groups))}"
    return kept(
        KERNELS / f"{name}-{reinit_groups}-{of}.safetensors", lambda: predict.tangent(model, task, groups=groups)
    )
