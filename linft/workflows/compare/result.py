"""What `linft compare` finds, as `result.json` holds it."""

from dataclasses import dataclass
from typing import Any

from linft.core.band import Band, BandAgreement
from linft.core.base import Outputs
from linft.core.recipe import Loss, Recipe
from linft.core.trajectory_json import SavedTrajectory
from linft.runtime.schema import Number
from linft.workflows.compare.agreement import Agreement
from linft.workflows.compare.attribution import Attribution
from linft.workflows.compare.drift import Drift

FILE = "result.json"


@dataclass(frozen=True, kw_only=True)
class AboutModel:
    """The model that was fine-tuned."""

    name: str
    architecture: dict[str, Any] | None
    """Name and options in the registry, where it is of one."""
    num_classes: int
    parameters: int
    layer_groups: dict[str, int]
    """Parameters of each stage."""
    head_scale: float
    """Deviation of the head's weights."""
    source: dict[str, Any]
    """What it was pretrained on."""


@dataclass(frozen=True, kw_only=True)
class AboutTask:
    """The task that it was fine-tuned on."""

    name: str
    train_images: int
    test_images: int
    num_classes: int
    class_names: list[str]


@dataclass(frozen=True, kw_only=True)
class KernelResult:
    """The kernel that predictions were made from."""

    outputs: Outputs
    engine: str
    train_images: int
    test_images: int
    seconds: float
    eigenvalues: list[Number]
    """The largest."""
    label_alignment: list[Number]
    """Share of the initial residual along each."""
    group_share: dict[str, Number]
    """Of the kernel's trace."""
    drift: Drift | None
    """Over the real run; None where that diverged."""
    predicted_drift: Drift | None = None
    """As a kernel that moves predicts it."""


@dataclass(frozen=True, kw_only=True)
class StabilityResult:
    """Where the recipe stands, as `linft.predict.Stability` has it."""

    loss: Loss
    lambda_max: float
    h: float
    limit: float
    worst_batch_h: float
    largest_stable_rate: Number
    """None where every rate is stable."""
    stable: bool


@dataclass(frozen=True, kw_only=True)
class SeedBands:
    """The real run and its predictions by several seeds: of the order of images, perhaps of the head."""

    runs: dict[str, SavedTrajectory]
    """By RUN-seed-SEED, of the seeds beside the recipe's own."""
    real: Band | None
    """Of the reference; None where it diverged with every seed."""
    predicted: dict[str, Band]
    agreement: dict[str, BandAgreement]
    """Of every prediction with the real band."""
    heads: bool = False
    """Whether the head is of each seed too."""


@dataclass(frozen=True, kw_only=True)
class ComparisonResult:
    """All that a comparison found."""

    schema: str = "linft-compare-2"
    model: AboutModel
    task: AboutTask
    recipe: Recipe
    reference: str
    """The real run that all others are held against."""
    runs: dict[str, SavedTrajectory]
    skipped: dict[str, str]
    """Runs that were not made, and why."""
    agreement: dict[str, Agreement]
    """Of every run with the reference."""
    attribution: Attribution
    kernel: KernelResult
    stability: StabilityResult | None
    """None with Adam, whose edge of stability is another one."""
    versions: dict[str, str]
    seconds: float
    """Of the call, without what was on disk already."""
    seeds: SeedBands | None = None
    """Where several were asked for."""
    draws: int = 0
    """Of every training image, by which predictions follow augmentation and mixup."""
