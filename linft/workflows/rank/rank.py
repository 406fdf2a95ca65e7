"""`rank`: score pretrained models on a sample of a task, and say how far the order can be trusted."""

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from linft.core.base import Model
from linft.core.errors import LinftError
from linft.core.names import printable
from linft.core.task import Task
from linft.data.lazy import held
from linft.runtime import schema
from linft.runtime.atomic_files import whole
from linft.runtime.progress import Progress
from linft.runtime.versions import versions
from linft.scores.gather import LAST_CONVOLUTION, ScoreGradients
from linft.scores.table import SCORES, chosen
from linft.workflows.rank import uncertainty
from linft.workflows.rank.result import FILE, RankedModel, RankedSample, RankedScore, RankedTask, RankingResult
from linft.workflows.rank.score_models import ModelSource, Sample, ScoredModel, scored

COLUMNS = ("model", "architecture", "data", "score", "value", "low", "high", "group", "seconds", "undefined")


@dataclass(frozen=True)
class Ranking:
    """Models by scores of which more is better."""

    about: RankedSample
    measured: tuple[ScoredModel, ...]
    failed: dict[str, str]
    """Models that could not be scored, and why."""

    @property
    def models(self) -> tuple[str, ...]:
        """Those that were scored, in the order in which they were given."""
        return tuple(one.model for one in self.measured)

    @property
    def scores(self) -> tuple[str, ...]:
        return tuple(self.about.scores)

    def values(self, score: str) -> dict[str, float]:
        """Model -> score; a model for which it does not exist is not in it."""
        if score not in self.scores:
            raise LinftError(f"{score!r} was not computed; there are {', '.join(self.scores)}")
        return {one.model: one.scores[score] for one in self.measured if score in one.scores}

    def order(self, score: str | None = None) -> tuple[str, ...]:
        """Models from the best to the worst by a score, or by the consensus; those without it are not among them."""
        values = self.consensus if score is None else self.values(score)
        return tuple(sorted(values, key=lambda model: -values[model]))

    def errors(self, score: str) -> dict[str, float]:
        """Standard errors over the sampled images, where they are known."""
        on_halves = self._column(score)[1]
        return self._known(uncertainty.standard_errors(on_halves, self._factor))

    def groups(self, score: str) -> dict[str, int]:
        """The group of every model, 0 the best; within one, models cannot be told apart from its first."""
        found = uncertainty.groups(*self._column(score), self._factor)
        return {model: int(group) for model, group in zip(self.models, found, strict=True) if group >= 0}

    @cached_property
    def consensus(self) -> dict[str, float]:
        """Mean share of the other models that a model beats, over the scores that vote."""
        return self._known(uncertainty.consensus([self._column(score)[0] for score in self.voting]))

    @cached_property
    def consensus_errors(self) -> dict[str, float]:
        """Its standard errors over the sampled images."""
        return self._known(uncertainty.standard_errors(self._consensus_on_halves, self._factor))

    @cached_property
    def consensus_groups(self) -> dict[str, int]:
        """Models that cannot be told apart by the consensus."""
        values = np.array([self.consensus.get(model, np.nan) for model in self.models])
        found = uncertainty.groups(values, self._consensus_on_halves, self._factor)
        return {model: int(group) for model, group in zip(self.models, found, strict=True) if group >= 0}

    def result(self) -> RankingResult:
        """All of it, the best model first; intervals hold 95% of what other samples would give."""
        of = {score: (self.values(score), self.errors(score), self.groups(score)) for score in self.scores}
        parts = {one.model: one for one in self.measured}
        places = {model: place for place, model in enumerate(self.order(), 1)}
        last = [model for model in self.models if model not in places]  # no score exists for them

        def row(model: str) -> RankedModel:
            one = parts[model]
            consensus = (self.consensus, self.consensus_errors, self.consensus_groups)
            return RankedModel(
                model=model,
                architecture=one.architecture,
                data=one.data,
                consensus=_within(_entry(model, *consensus), 0.0, 1.0) if model in self.consensus else None,
                scores={score: _entry(model, *of[score]) for score in self.scores if score in one.scores},
                lgc_projection_error=one.lgc_error,
                undefined={score: one.undefined[score] for score in self.scores if score in one.undefined},
                seconds=one.seconds,
            )

        return RankingResult(
            **vars(self.about),
            voting=list(self.voting),
            models=[row(model) for model in (*places, *last)],
            failed=self.failed,
            versions=versions(),
        )

    def write(self, directory: str | Path) -> None:
        """Write `ranking.json` and `ranking.csv`."""
        schema.write(Path(directory) / FILE, self.result())
        with whole(Path(directory) / "ranking.csv") as partial:
            partial.write_text(self.as_csv(), encoding="utf-8", errors="backslashreplace")

    def as_csv(self) -> str:
        """A line a model and score."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(COLUMNS)
        for row in self.result().models:
            about = [row.model, row.architecture, row.data]
            for name, entry in {"consensus": row.consensus, **row.scores}.items():
                values = [None if entry is None else getattr(entry, column) for column in COLUMNS[4:8]]
                table.writerow([*about, name, *values, row.seconds.get(name), ""])
            for name, reason in row.undefined.items():
                table.writerow([*about, name, *[None] * 5, reason])
        return text.getvalue()

    @property
    def voting(self) -> tuple[str, ...]:
        """Scores of the consensus; all of them where none of those chosen votes."""
        return tuple(score for score in self.scores if SCORES[score].votes) or self.scores

    @cached_property
    def _consensus_on_halves(self) -> Float[np.ndarray, "r m"]:
        return uncertainty.consensus([self._column(score)[1] for score in self.voting])

    @property
    def _factor(self) -> float:
        return uncertainty.inflation(self.about.images, self.about.half)

    def _column(self, score: str) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "r m"]]:
        known, nothing = self.values(score), [None] * self.about.resamples
        values = np.array([known.get(model, np.nan) for model in self.models], float)
        on_halves = np.array([one.halves.get(score, nothing) for one in self.measured], float)
        return values, on_halves.reshape(len(values), -1).T

    def _known(self, values: Float[np.ndarray, "m"]) -> dict[str, float]:
        pairs = zip(self.models, values.tolist(), strict=True)
        return {model: value for model, value in pairs if np.isfinite(value)}


def rank(
    models: Sequence[str | Path | Model],
    task: Task,
    scores: Sequence[str] | None = None,
    *,
    per_class: int = 25,
    seed: int = 0,
    resamples: int = 20,
    gradients: ScoreGradients = LAST_CONVOLUTION,
    jobs: int = 1,
    output: str | Path | None = None,
    progress: Progress | None = None,
) -> Ranking:
    """Rank pretrained models for a task without fine-tuning any (Deshpande and others 2021, section 3.2).

    All scores of a model come from one pass over the sample. Their errors come from random halves of it
    (`uncertainty`), the same for all models, so that models can be told apart by their differences. A model
    that cannot be loaded, and a score that does not exist for one, are reported and the others go on.

    Args:
      models: names as of `load_model`, files, or models with their source's head.
      task: the target; only its training part is looked at.
      scores: names in `scores.table.SCORES`, or `all`; by default those that cost one pass.
      per_class: at most so many training images of each class are drawn.
      seed: of the drawn images, of their halves, and of what is random in scores.
      resamples: halves; 0 for no errors.
      gradients: which layers' kernel LGC and its like take.
      jobs: processes, each of which scores one model at a time; a model is compiled for in each.
      output: a directory to which a line a model is added as it is scored; a call that was interrupted
        goes on from there.
      progress: called as work goes on.

    Raises:
      LinftError: unknown scores, two models of one name, a sample with one class or no two images of a
        class, or none of the models can be scored.

    Example:
      >>> import linft
      >>> task = linft.load_task("digits")
      >>> ranking = rank(["resnet14-mnist", "resnet14-gtsrb"], task, ["lfc", "leep"], per_class=5)
      >>> ranking.order("lfc")
      ('resnet14-mnist', 'resnet14-gtsrb')
    """
    begin, names, tell = time.perf_counter(), chosen(scores), progress or (lambda what, done, total: None)
    given, drawn = named(models), _drawn(task, per_class, seed)
    sample = Sample(drawn, names, uncertainty.halves(drawn.y_train, resamples, seed), gradients, seed)
    found: dict[str, ScoredModel] = {}
    failed: dict[str, str] = {}
    tell("models", 0, len(given))
    for name, one in scored(given, sample, jobs, None if output is None else Path(output)):
        (failed if isinstance(one, str) else found)[name] = one  # pyright: ignore
        tell("models", len(found) + len(failed), len(given))
    if not found:
        raise LinftError(f"none of {len(given)} models could be scored; the first: {next(iter(failed.values()))}")
    classes = len(np.unique(drawn.y_train))
    about = RankedSample(
        task=RankedTask(name=task.name, classes=classes, class_names=list(task.class_names)),
        images=len(drawn.y_train),
        per_class=per_class,
        seed=seed,
        scores=list(names),
        gradients=gradients,
        resamples=resamples,
        half=sample.halves.shape[1],
        seconds=time.perf_counter() - begin,
    )
    return Ranking(about, tuple(found[name] for name in given if name in found), failed)


def _entry(model: str, values: dict[str, float], errors: dict[str, float], groups: dict[str, int]) -> RankedScore:
    """A value with its interval and group."""
    value, either_side = values[model], uncertainty.margin() * errors.get(model, np.nan)
    low, high = (value - either_side, value + either_side) if np.isfinite(either_side) else (None, None)
    return RankedScore(value=value, low=low, high=high, group=groups[model])


def _within(entry: RankedScore, least: float, most: float) -> RankedScore:
    """The entry of a value that can be no less and no more, its interval cut off there."""
    if entry.low is None or entry.high is None:
        return entry
    return replace(entry, low=max(entry.low, least), high=min(entry.high, most))


def named(models: Sequence[ModelSource]) -> dict[str, ModelSource]:
    """Models by name: a file's is its stem."""
    named: dict[str, ModelSource] = {}
    for model in models:
        path = None if isinstance(model, Model) else Path(model)
        name = printable(model.name if isinstance(model, Model) else path.stem if path and path.is_file() else model)
        if name in named:
            raise LinftError(f"two models are called {name}; give each a name of its own")
        named[name] = model
    if not named:
        raise LinftError("there is no model to rank; give one or more, or a zoo that is not empty")
    return named


def _drawn(task: Task, per_class: int, seed: int) -> Task:
    """The task with the images that scores see."""
    drawn = task.max_per_class(per_class, seed)
    counts = np.bincount(drawn.y_train)
    if (counts > 0).sum() < 2 or counts.max() < 2:
        raise LinftError(
            f"{task.name} has {len(drawn.y_train)} training images of {(counts > 0).sum()} classes to score models on; "
            "scores compare images of two classes or more, and need two images of one of them"
        )
    return drawn.replace(x_train=held(drawn.x_train)[0])
