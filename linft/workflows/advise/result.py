"""What `linft advise` finds, in memory and as `advice.json` holds it, and the facts that are kept on the way there."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linft.core.base import Trajectory
from linft.core.recipe import Recipe
from linft.core.trajectory_json import SavedTrajectory, saved
from linft.runtime import schema
from linft.runtime.schema import Number
from linft.runtime.versions import versions
from linft.training.result import Scores
from linft.workflows.advise.initialization import Initialization
from linft.workflows.advise.measures import Curvature, Measures, Similarity
from linft.workflows.advise.rules import Rule, Space
from linft.workflows.advise.search import Searched
from linft.workflows.compare.result import StabilityResult
from linft.workflows.sweep.grid import Values

FILE = "advice.json"


@dataclass(frozen=True, kw_only=True)
class KeptMeasures:
    """Measures, as measures.json holds them."""

    schema: str = "linft-advise-measures-1"
    found: Measures
    seconds: float


@dataclass(frozen=True, kw_only=True)
class KeptCurvature:
    """The curvature of a start with K new groups, as curvature-K.json holds it."""

    schema: str = "linft-advise-curvature-1"
    found: Curvature
    seconds: float


@dataclass(frozen=True, kw_only=True)
class AdvisedModel:
    """The model that an advice is for."""

    name: str
    digest: str
    layer_groups: list[str]


@dataclass(frozen=True, kw_only=True)
class AdvisedTask:
    """The task that an advice is for."""

    name: str
    digest: str
    """Of the training part."""
    train_images: int
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class AdviceInputs:
    """All that an advice depends on, but for the recipe that it varies."""

    model: AdvisedModel
    task: AdvisedTask
    initialization: Initialization
    kernel: dict[str, Any]
    """Options of `predict.tangent`."""
    budget: int
    """Training steps."""
    shots: int
    folds: int


@dataclass(frozen=True)
class Certainty:
    """How far an advice can be trusted."""

    accuracy: float
    """Predicted for images that are not trained on: mean over folds."""
    spread: float
    """Standard deviation over folds."""
    default_accuracy: float | None
    """The same of the recipe that the others vary; None where its rate is too large to be searched."""
    points: int
    """That were tried."""
    tied: int
    """Of them, those that cannot be told apart from the most accurate one."""
    diverged: int
    """Of them, those that diverged on a fold."""
    edge: StabilityResult
    """Where the recipe stands, on all training images."""
    fall: float | None
    """By how much of its first value the train loss is predicted to fall; None where it rises above it."""
    curve_error: float | None
    """Upper quartile of the errors of predicted loss curves that fell as far, as measured
    (`predict.choice.KINDS`); None where nothing was measured, as of a run unlike those."""
    moved: float
    """Largest predicted ‖w − w0‖ / ‖w0‖ of a stage without new weights: first order asks for little."""


@dataclass(frozen=True, kw_only=True)
class MeasuresResult:
    """`Measures`, and what they come to."""

    images: int
    scores: dict[str, float]
    undefined: dict[str, str]
    gap_error: float | None
    similarity: Similarity


@dataclass(frozen=True, kw_only=True)
class FiredRule:
    """A finding that holds."""

    name: str
    condition: str
    consequence: str
    source: str


@dataclass(frozen=True, kw_only=True)
class TriedPoint:
    """A recipe that was tried."""

    values: Values
    accuracy: Number
    """On images held out, mean over folds; None where it diverged, as of all of these."""
    loss: Number
    by_fold: list[Number]
    """The accuracies."""
    tied: bool
    """Whether it cannot be told apart from the most accurate one."""
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class HeldOutCurve:
    """The predicted curve on images held out: mean over folds."""

    steps: list[int]
    accuracy: list[float]
    accuracy_deviation: list[float]
    """Standard deviation over folds."""
    loss: list[float]


@dataclass(frozen=True, kw_only=True)
class VerifiedRun:
    """What came of a recipe that was really trained."""

    final: Scores | None = None
    """On the test part, at the end."""
    trajectory: SavedTrajectory | None = None
    diverged: str | None = None
    """Why there is neither."""


@dataclass(frozen=True, kw_only=True)
class AdviceResult(AdviceInputs):
    """One recipe, and why."""

    schema: str = "linft-advise-2"
    seconds: dict[str, float]
    """By part, and of all."""
    recipe: Recipe
    reinit_groups: int
    values: Values
    default: Recipe
    measures: MeasuresResult
    curvatures: dict[str, Curvature]
    """By number of new groups."""
    rules: list[FiredRule]
    space: Space
    points: list[TriedPoint]
    certainty: Certainty
    curve: SavedTrajectory
    """Predicted on all training images; its test part is one of them."""
    held_out: HeldOutCurve
    dropped: list[str]
    """What no kernel predicts of the recipes."""
    versions: dict[str, str]
    verified: dict[str, VerifiedRun] | None
    """By `advised` and `default`, where they were trained."""


@dataclass(frozen=True)
class Advice:
    """One recipe, and why."""

    recipe: Recipe
    reinit_groups: int
    """Last layer groups at new random weights; 1 is the head alone."""
    values: Values
    """What was chosen, by depth where it goes by layers."""
    default: Recipe
    """The recipe that the others vary, for as many steps."""
    measures: Measures
    rules: tuple[Rule, ...]
    """That fired."""
    space: Space
    curvatures: Mapping[int, Curvature]
    """By number of new groups."""
    searched: Searched
    curve: Trajectory
    """Predicted on all training images; its test part is one of them."""
    certainty: Certainty
    about: AdviceInputs
    seconds: Mapping[str, float]
    """By part, and of all."""

    @property
    def initialization(self) -> Initialization:
        """How the new layers are made."""
        return self.about.initialization

    @property
    def held_out(self) -> HeldOutCurve:
        """The predicted curve on images held out."""
        curves = [curve for of in self.searched.rows if (curve := of[self.searched.chosen].curve) is not None]
        accuracy = np.array([curve.test_accuracy for curve in curves])
        loss = np.array([curve.test_loss for curve in curves])
        return HeldOutCurve(
            steps=curves[0].steps,
            accuracy=accuracy.mean(0).tolist(),
            accuracy_deviation=accuracy.std(0, ddof=1).tolist(),
            loss=loss.mean(0).tolist(),
        )

    def result(self, verified: dict[str, VerifiedRun] | None = None) -> AdviceResult:
        """All of it, with what `verify` found where it was asked for."""
        measures, found, chosen = self.measures, self.searched, self.searched.chosen
        accuracy, loss = found.accuracy.mean(0).tolist(), found.loss.mean(0).tolist()
        return AdviceResult(
            **vars(self.about),
            seconds=dict(self.seconds),
            recipe=self.recipe,
            reinit_groups=self.reinit_groups,
            values=self.values,
            default=self.default,
            measures=MeasuresResult(
                images=measures.images,
                scores=dict(measures.scores),
                undefined=dict(measures.undefined),
                gap_error=measures.gap_error,
                similarity=measures.similarity,
            ),
            curvatures={str(reinit_groups): of for reinit_groups, of in self.curvatures.items()},
            rules=[
                FiredRule(name=of.name, condition=of.condition, consequence=of.consequence, source=of.source)
                for of in self.rules
            ],
            space=self.space,
            points=[
                TriedPoint(
                    values=point,
                    accuracy=accuracy[i],
                    loss=loss[i],
                    by_fold=found.accuracy[:, i].tolist(),
                    tied=i in found.tied,
                    chosen=i == chosen,
                )
                for i, point in enumerate(found.points)
            ],
            certainty=self.certainty,
            curve=saved(self.curve),
            held_out=self.held_out,
            dropped=found.dropped,
            versions=versions(),
            verified=verified,
        )

    def write(self, directory: str | Path, verified: dict[str, VerifiedRun] | None = None) -> None:
        """Put all of it into advice.json."""
        schema.write(Path(directory) / FILE, self.result(verified))
