"""What `linft rank` finds, as `ranking.json` holds it."""

from dataclasses import dataclass

from linft.runtime.schema import Number
from linft.scores.gather import ScoreGradients

FILE = "ranking.json"


@dataclass(frozen=True, kw_only=True)
class RankedTask:
    """The task that models are ranked for."""

    name: str
    classes: int
    """Of the sample."""
    class_names: list[str]


@dataclass(frozen=True, kw_only=True)
class RankedSample:
    """The sample that models were scored on, and how."""

    task: RankedTask
    images: int
    per_class: int
    """At most."""
    seed: int
    scores: list[str]
    gradients: ScoreGradients
    resamples: int
    """Halves of the sample."""
    half: int
    """Images of each."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class RankedScore:
    """A value with the interval that holds 95% of what other samples would give, and its group, 0 the best."""

    value: Number
    low: Number
    high: Number
    group: int


@dataclass(frozen=True, kw_only=True)
class RankedModel:
    """The scores of one model."""

    model: str
    architecture: str
    data: str
    """What it was pretrained on."""
    consensus: RankedScore | None
    """None where no score exists for it."""
    scores: dict[str, RankedScore]
    lgc_projection_error: Number
    """Where the kernel of LGC was projected."""
    undefined: dict[str, str]
    """Scores that do not exist for it, and why."""
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class RankingResult(RankedSample):
    """Models from the best to the worst."""

    schema: str = "linft-rank-1"
    voting: list[str]
    """Scores that the consensus is of."""
    models: list[RankedModel]
    failed: dict[str, str]
    """Models that could not be scored, and why."""
    versions: dict[str, str]
