"""What `linft finetune` finds, as `result.json` holds it: of one run, and of the runs of several seeds."""

from dataclasses import dataclass
from typing import Any

from linft.core.task import Task
from linft.core.trajectory_json import SavedTrajectory
from linft.training.metrics import Metrics


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """The model of a run."""

    name: str
    parameters: int


@dataclass(frozen=True, kw_only=True)
class TaskSummary:
    """The task of a run."""

    name: str
    classes: int
    train_images: int
    test_images: int


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One fine-tuning run."""

    schema: str = "linft-finetune-1"
    model: ModelSummary
    task: TaskSummary
    final: Metrics
    """Of the last weights on the test part."""
    trajectory: SavedTrajectory
    config: dict[str, Any]
    """What config.yaml holds."""
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What a learning rate came to on validation images."""

    validation_accuracy: float | None = None
    """The greatest."""
    step: int | None = None
    """At which it was."""
    diverged: str | None = None
    """Why there is none."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What validation images chose."""

    learning_rate: float
    until: int | None
    """The step at which final runs end; None at their last."""
    tried: dict[str, Tried]
    """By rate."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The metrics that are summed up over seeds."""

    accuracy: float | None
    mean_per_class_accuracy: float | None
    loss: float | None
    calibration_error: float | None


@dataclass(frozen=True, kw_only=True)
class TenCrop:
    """Metrics over ten crops of every test image."""

    mean: Scores
    standard_deviation: Scores
    """Of a sample (n − 1); None of one seed."""
    ensemble: Metrics


@dataclass(frozen=True, kw_only=True)
class SeedsResult:
    """Final runs over seeds, and what was chosen before them."""

    schema: str = "linft-finetune-seeds-1"
    config: dict[str, Any]
    versions: dict[str, str]
    choice: Choice | None
    seeds: dict[str, Metrics]
    mean: Scores
    standard_deviation: Scores
    """Of a sample (n − 1); None of one seed."""
    ensemble: Metrics
    """Of the mean of the seeds' probabilities."""
    ten_crop: TenCrop | None


def summary(task: Task) -> TaskSummary:
    """A task as files of results hold it."""
    return TaskSummary(
        name=task.name, classes=task.num_classes, train_images=len(task.y_train), test_images=len(task.y_test)
    )
