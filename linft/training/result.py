"""What `linft finetune` finds, as `result.json` holds it."""

from dataclasses import dataclass

from linft.core.task import Task


@dataclass(frozen=True, kw_only=True)
class TaskSummary:
    """The task of a run."""

    name: str
    classes: int
    train_images: int
    test_images: int


def summary(task: Task) -> TaskSummary:
    """A task as files of results hold it."""
    return TaskSummary(
        name=task.name, classes=task.num_classes, train_images=len(task.y_train), test_images=len(task.y_test)
    )
