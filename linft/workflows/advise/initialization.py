"""Where a run starts: the pretrained network with its new layers, and the kernel there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from linft import predict
from linft.core.base import Model, Tangent
from linft.core.task import Task
from linft.models.reinitialize import with_new_layers
from linft.predict.tangent import kept
from linft.runtime.progress import Progress


@dataclass(frozen=True)
class Initialization:
    """How new layers are made."""

    head: Literal["normal", "probe", "zeros"] = "normal"
    """The new head: random, the ridge solution on the training features, or zero."""
    head_scale: float = 0.01
    """Standard deviation of a random head."""
    seed: int = 0
    """Of what is drawn, as `linft finetune` draws it."""

    def __call__(self, model: Model, task: Task, reinit_groups: int = 1) -> Model:
        """The model with so many last layer groups new, the head among them."""
        return with_new_layers(model, task, self.seed, reinit_groups, self.head, self.head_scale)


@dataclass(frozen=True)
class Tangents:
    """The tangent of each start on a task's training images, computed once; its test part is one of them."""

    initialization: Initialization
    model: Model
    task: Task
    kernel: Mapping[str, Any]
    """Options of `predict.tangent`."""
    output: Path | None
    progress: Progress
    made: dict[int, Tangent] = field(default_factory=dict)

    def __call__(self, reinit_groups: int) -> Tangent:
        """In memory, on disk, or computed."""
        if reinit_groups not in self.made:
            path = None if self.output is None else self.output / f"tangent-{reinit_groups}.safetensors"
            self.made[reinit_groups] = kept(path, lambda: self._computed(reinit_groups))
        return self.made[reinit_groups]

    def _computed(self, reinit_groups: int) -> Tangent:
        name = "kernel" if reinit_groups == 1 else f"kernel {reinit_groups}"
        task = self.task.replace(x_test=self.task.x_train[:1], y_test=self.task.y_train[:1])
        return predict.tangent(
            self.initialization(self.model, task, reinit_groups),
            task,
            progress=lambda done, total: self.progress(name, done, total),
            **self.kernel,
        )
