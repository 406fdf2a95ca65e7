"""Where a run starts: the pretrained network with its new layers, and the kernel there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from linft import predict
from linft.base import Model, Tangent
from linft.predict.tangent import kept
from linft.reinitialization import with_new_layers
from linft.task import Task

FEW = 64
"""Images, about, of the kernel with a trained head: the curvature of a minibatch hardly depends on how many more."""


@dataclass(frozen=True)
class Start:
    """How new layers are made."""

    head: Literal["normal", "probe", "zeros"] = "normal"
    """The new head: random, the ridge solution on the training features, or zero."""
    head_scale: float = 0.01
    """Standard deviation of a random head."""
    seed: int = 0
    """Of what is drawn, as `linft finetune` draws it."""

    def __call__(self, model: Model, task: Task, new_groups: int = 1) -> Model:
        """The model with so many last layer groups new, the head among them."""
        return with_new_layers(model, task, self.seed, new_groups, self.head, self.head_scale)


@dataclass(frozen=True)
class Tangents:
    """The tangent of each start on a task's training images, computed once; its test part is one of them."""

    start: Start
    model: Model
    task: Task
    kernel: Mapping[str, Any]
    """Options of `predict.tangent`."""
    output: Path | None
    progress: Callable[[str, int, int], None]
    made: dict[int, Tangent] = field(default_factory=dict)

    def __call__(self, new_groups: int) -> Tangent:
        """In memory, on disk, or computed."""
        if new_groups not in self.made:
            path = None if self.output is None else self.output / f"tangent-{new_groups}.safetensors"
            self.made[new_groups] = kept(path, lambda: self._computed(self.start, self.task, new_groups, "kernel"))
        return self.made[new_groups]

    def trained(self, new_groups: int) -> Tangent | None:
        """With the head at the ridge solution on the features, on some of the images; None where the start has it."""
        if self.start.head == "probe":
            return None
        few = self.task.at_most(max(1, FEW // self.task.num_classes), self.start.seed)
        return self._computed(replace(self.start, head="probe"), few, new_groups, "trained head")

    def _computed(self, start: Start, images: Task, new_groups: int, name: str) -> Tangent:
        return predict.tangent(
            start(self.model, self.task, new_groups),
            images.replace(x_test=images.x_train[:1], y_test=images.y_train[:1]),
            progress=lambda done, total: self.progress(
                name if new_groups == 1 else f"{name} {new_groups}", done, total
            ),
            **self.kernel,
        )
