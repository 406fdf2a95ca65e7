"""The runs that a comparison can make, from reality to theory."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal

from linft import predict
from linft.core.base import BatchNorm, Model, Outputs, Tangent, Trajectory
from linft.core.recipe import Recipe
from linft.core.recipe_fields import Means
from linft.core.task import Task
from linft.models.linearize import linearize
from linft.predict.explicit import Explicit
from linft.predict.moving import SharedPaths
from linft.predict.tangent import mode, to_trace
from linft.training.finetune import OnStep, finetune


@dataclass(frozen=True)
class Setting:
    """What every run of a comparison is made from."""

    model: Model
    task: Task
    recipe: Recipe
    tangent: Tangent
    """Of the network and the task."""
    met: Task
    """What predictions by replay train on: the task, or draws of its images where the recipe augments them."""
    compute: Callable[[Model, Task], Tangent]
    """Another tangent."""
    record_every: int | None
    progress: OnStep
    visit: Callable[[int, Callable[[], Model]], None] = lambda step, network: None
    """Called at recorded steps with what gives the network there, where its weights are known."""
    paths: dict[str, SharedPaths] = field(default_factory=dict)
    """Of kernels that moved, for other seeds of order."""
    jacobians: list[Explicit] = field(default_factory=list)
    """That was computed, likewise."""
    kernels: list[Tangent] = field(default_factory=list)
    """Of the network on what predictions train on, likewise."""

    @property
    def batch_norm(self) -> BatchNorm:
        """Of the kernel, and of what is linearized."""
        return mode(self.model, self.recipe)

    @cached_property
    def kernel_recipe(self) -> Recipe:
        """The nearest recipe that the kernel predicts, of the images as they are."""
        return predict.nearest(self.recipe, self.batch_norm)[0]

    def under(self, model: Model) -> "Setting":
        """The same with another head, of which no kernel is known yet."""
        return dataclasses.replace(self, model=model, paths={}, jacobians=[], kernels=[])

    def nearest(self, by: Means = "kernel") -> tuple[Recipe, str]:
        """The nearest recipe that a replay predicts, and what was dropped."""
        return predict.nearest(self.recipe, self.batch_norm, by, from_draws=self.met.draws is not None)

    @cached_property
    def full_batch(self) -> Recipe:
        n = len(self.task.y_train)
        return self.kernel_recipe.replace(batch_size=None, steps=self.kernel_recipe.num_steps(n))

    @cached_property
    def no_momentum(self) -> Recipe:
        rate = self.full_batch.learning_rate / (1 - self.full_batch.momentum)
        return self.full_batch.replace(momentum=0.0, learning_rate=rate)

    @cached_property
    def trace(self) -> Tangent:
        return to_trace(self.tangent) if self.tangent.kernel_train.outputs == "full" else self.tangent

    def move(self, at: Literal["network", "features"], outputs: Outputs) -> Trajectory:
        """Predict with a kernel that moves, or with Jacobians along the path where none follows the optimizer."""
        if at not in self.paths:
            how = {"outputs": outputs, "batch_norm": self.batch_norm, "record_every": self.record_every}
            self.paths[at] = SharedPaths(predict.moving(self.model, self.met, at=at, **how))
        found = self.paths[at].follow(self.nearest("Jacobian")[0])
        for step in found.trajectory.steps.tolist():
            self.visit(step, partial(found.network, step))
        return found.noted()

    def move_weights(self) -> Trajectory:
        """Predict with the Jacobian itself."""
        if not self.jacobians:
            how = {"batch_norm": self.batch_norm, "record_every": self.record_every}
            self.jacobians.append(predict.explicit(self.model, self.met, **how))
        return self.jacobians[0](self.nearest("Jacobian")[0])

    def replay(self) -> Trajectory:
        """Predict with the network's kernel."""
        if not self.kernels:
            self.kernels.append(self.compute(self.model, self.met))
        return predict.dual(self.kernels[0], record_every=self.record_every)(self.nearest()[0])

    def train(self, model: Model, batch_norm: str) -> Trajectory:
        """Train weights."""

        def visit(step: int, network: Model) -> None:
            self.visit(step, lambda: network)

        run = finetune(model, self.task, record_every=self.record_every, progress=self.progress, visit=visit)
        return run(self.recipe.replace(batch_norm=batch_norm))


RUNS: dict[str, Callable[[Setting], Trajectory]] = {
    "finetuned_train_bn": lambda s: s.train(s.model, "train"),
    "finetuned": lambda s: s.train(s.model, "frozen"),
    "moving": lambda s: s.move("network", s.tangent.kernel_train.outputs),
    "moving_features": lambda s: s.move("features", "full"),
    "feature_linearized": lambda s: s.train(linearize(s.model, "features", s.batch_norm), s.batch_norm),
    "linearized": lambda s: s.train(linearize(s.model, batch_norm=s.batch_norm), s.batch_norm),
    "explicit": lambda s: s.move_weights(),
    "dual": lambda s: s.replay(),
    "spectral": lambda s: predict.spectral(s.tangent, record_every=s.record_every)(s.kernel_recipe),
    "gradient_flow": lambda s: predict.gradient_flow(s.tangent, record_every=s.record_every)(s.kernel_recipe),
    "dual_trace": lambda s: predict.dual(s.trace, record_every=s.record_every)(s.kernel_recipe),
    "dual_full_batch": lambda s: predict.dual(s.trace, record_every=s.record_every)(s.full_batch),
    "dual_no_momentum": lambda s: predict.dual(s.trace, record_every=s.record_every)(s.no_momentum),
    "flow_trace": lambda s: predict.gradient_flow(s.trace, record_every=s.record_every)(s.no_momentum),
}
"""Every run that a comparison can make, from reality to theory."""

ON_REQUEST = {
    "feature_linearized": "trained in weights, which takes as long as the real run",
    "linearized": "trained in weights, which takes as long as the real run",
    "explicit": "which holds the Jacobian itself, and says what dual says",
    "moving": "which takes the Jacobians at several weights",
    "moving_features": "which takes the Jacobians at several weights",
}
"""Runs that are made only where they are named, and why."""

MOVING = ("moving", "moving_features")
"""Predictions of the weights, so that the kernel at the end is predicted too."""

PREDICTED = tuple(name for name in RUNS if not name.startswith("finetuned") and not name.endswith("linearized"))

KERNELS = tuple(name for name in PREDICTED if name not in ("explicit", *MOVING))
"""Predictions that follow what is linear in the gradient only."""

BY_SEED = ("explicit", "dual", *MOVING)
"""Predictions that are made by other seeds of order too."""
