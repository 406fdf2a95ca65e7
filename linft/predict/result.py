"""What `linft predict` finds, as `prediction.json` holds it."""

from dataclasses import dataclass

from linft.core.band import Band
from linft.core.recipe import Recipe
from linft.core.trajectory_json import SavedTrajectory
from linft.predict.choice import ChosenKind
from linft.predict.sharpening import Edge
from linft.training.result import TaskSummary

FILE = "prediction.json"


@dataclass(frozen=True, kw_only=True)
class ModelName:
    """The model whose fine-tuning is predicted."""

    name: str


@dataclass(frozen=True, kw_only=True)
class PredictionResult:
    """A predicted run, and why it was predicted so."""

    schema: str = "linft-predict-1"
    model: ModelName
    task: TaskSummary
    recipe: Recipe
    """The nearest one that can be predicted."""
    dropped: str
    """What that leaves out of the recipe that was asked for."""
    how: str
    """The kind of prediction."""
    error: float
    """That was to be held."""
    choice: ChosenKind | None
    """None where the kind was given."""
    runs: dict[str, SavedTrajectory]
    """By the kind; of other seeds by KIND-seed-SEED."""
    versions: dict[str, str]
    band: Band | None = None
    """Of several seeds; None of one, and where all are predicted to diverge."""
    heads: bool = False
    """Whether the head is drawn by each seed too, beside the order of the images."""
    draws: int = 0
    """Of every training image, by which augmentation and mixup are followed."""
    edge_on_path: Edge | None = None
    """Where the recipe meets the edge of stability along the predicted path, where that was asked for."""
