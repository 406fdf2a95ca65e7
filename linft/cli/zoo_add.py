"""`linft zoo add`: put a model, such as a fine-tuned one, into a zoo, with what selection needs of its task."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from linft.cli.options import TaskOptions, ZooFileOptions

if TYPE_CHECKING:
    from linft.core.base import Model
    from linft.core.task import Task


@dataclass(frozen=True)
class ZooAdd:
    """Put a model into a zoo; with the task it was trained on, measure its accuracy and class means too."""

    model: tyro.conf.Positional[str]
    """A file of ours, or the name of a model that comes with the package."""
    task: str | None = None
    """The task it was trained on: digits, npz:PATH, folder:PATH, tfds:NAME or data:NAME."""
    download: bool = False
    """Let tfds:NAME download what is not on disk."""
    data: str | None = None
    """Name of the source data set in the metadata; the task's by default."""
    file: Annotated[ZooFileOptions, tyro.conf.OmitArgPrefixes] = ZooFileOptions()

    def __call__(self) -> None:
        """Load, measure, write, and print where."""
        import linft
        from linft.cli.terminal import print_lines

        model = linft.load_model(self.model)
        self.file.path(model)  # refused before anything is measured
        if self.task is not None:
            model = on_task(model, TaskOptions(self.task, self.download).load(), self.data)
        elif self.data is not None:
            model = model.replace(source={**model.source, "data": self.data})
        model, path = self.file.save(model)
        accuracy = model.source.get("test_accuracy")
        found = "" if accuracy is None else f"test accuracy {accuracy:.1%}, "
        print_lines([f"{model.name}: {found}written to {path}"])


def on_task(model: "Model", task: "Task", data: str | None) -> "Model":
    """The model with its accuracy and class means on the task; an older source is kept as its pretraining."""
    from linft.training.pretrain import measured

    model.check_classes(task)
    found = measured(model, task)
    about: dict[str, Any] = {**found.source, "data": data or task.name}
    same = model.source.get("data") == about["data"]
    before = model.source if same else {"pretraining": dict(model.source)} if model.source else {}
    return found.replace(source={**before, **about})
