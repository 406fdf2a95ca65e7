"""Which score picks the models that fine-tune best: truth and scores side by side, and every measure of the picks.

A selection is among the models of a zoo, for one target, number of shots and seed. Measures are means over targets
and seeds, with intervals over both: rankings of scores are unstable.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from linft.core.errors import LinftError
from linft.runtime.schema import Number
from linft.workflows.benchmark.measures import MEASURES, SMALLER_IS_BETTER, Vector
from linft.workflows.benchmark.protocol import Shots
from linft.workflows.benchmark.scored import SampleScores
from linft.workflows.benchmark.truth import FinishedCase

CHANCE, ORACLE = "any model", "the truth itself"
"""Rows beside the scores: the expectation of a selection at random, and a selection by what came out."""
SHARE = 0.95  # of the bootstrap, within an interval
DRAWS = 2000


@dataclass(frozen=True)
class Selection:
    """What can be chosen, what came of it, and what the scores said before."""

    target: str
    shots: Shots
    seed: int
    models: tuple[str, ...]
    accuracies: Vector
    """On the test images after fine-tuning, at the better rate of each model."""
    finetuning_seconds: Vector
    """Of one run, compiled; NaN where not everything ran on one kind of device, so that seconds do not compare."""
    scores: Mapping[str, Vector]
    """NaN where a score does not exist."""
    scoring_seconds: Mapping[str, Vector]

    def of(self, model: str, values: Vector) -> float:
        """The value of one model; NaN where it is not among them."""
        return float(values[self.models.index(model)]) if model in self.models else np.nan


def selections(
    truth: Iterable[FinishedCase], scored: Iterable[SampleScores], models: Mapping[str, Collection[str]]
) -> list[Selection]:
    """A selection for every target, shots and seed at which all the models were fine-tuned and scored.

    A rate counts where every model was run at it, so that models are compared alike while runs go on.

    Args:
      truth: rows of `truth.truth`.
      scored: rows of `scored.scored`, for one number of images.
      models: target -> the models that there are to choose from.
    """
    runs: dict[tuple, dict[str, dict[float, FinishedCase]]] = defaultdict(lambda: defaultdict(dict))
    for row in truth:
        if row.model in models.get(row.target, ()):
            runs[row.target, row.shots, row.seed][row.model][row.rate] = row
    before = {(row.target, row.shots, row.seed, row.model): row for row in scored}
    found = []
    for (target, shots, seed), by_model in runs.items():
        names = tuple(sorted(models[target]))
        rates = set.intersection(*(set(by_model[model]) for model in names))
        places = [(target, shots, seed, model) for model in names]
        if rates and all(place in before for place in places):
            rows = [before[place] for place in places]
            best = [max(by_model[model][rate].test_accuracy for rate in rates) for model in names]
            ran = [by_model[model][rate] for model in names for rate in rates]
            one_device = len({row.device for row in (*ran, *rows)}) == 1
            quickest = [min(by_model[m][r].seconds for r in rates) if one_device else np.nan for m in names]
            scores, seconds = (_by_score([getattr(row, what) for row in rows]) for what in ("scores", "seconds"))
            found.append(Selection(target, shots, seed, names, np.array(best), np.array(quickest), scores, seconds))
    return found


def _by_score(of_models: Sequence[Mapping[str, Number]]) -> dict[str, Float[np.ndarray, "m"]]:
    names = dict.fromkeys(name for of in of_models for name in of)
    return {name: np.array([of.get(name, np.nan) for of in of_models], float) for name in names}


@dataclass(frozen=True)
class Estimate:
    """A mean over targets, and how far it can be trusted."""

    mean: float
    low: float
    high: float
    """Ends of the interval."""
    wins: float
    """Share of the draws in which no other score does better."""


def by_target(selections: Sequence[Selection]) -> list[list[Selection]]:
    """The selections of every target: its cells."""
    targets = dict.fromkeys(selection.target for selection in selections)
    return [[selection for selection in selections if selection.target == target] for target in targets]


def values_of(
    selections: Sequence[Selection], measure: str, reference: str
) -> dict[str, Float[np.ndarray, "targets cells"]]:
    """Score -> its measure for each target and each selection of it; 0 where there is none."""
    of_target = by_target(selections)
    names = dict.fromkeys(name for selection in selections for name in selection.scores)
    values = {name: np.zeros((len(of_target), max(map(len, of_target)))) for name in (*names, CHANCE, ORACLE)}
    for i, own in enumerate(of_target):
        for j, selection in enumerate(own):
            base = selection.of(reference, selection.accuracies)
            for name in values:
                values[name][i, j] = MEASURES[measure](selection.accuracies, _scores(selection, name), base)
    return values


def _scores(selection: Selection, name: str) -> Vector:
    if name == ORACLE:
        return selection.accuracies
    nothing = np.full(len(selection.models), np.nan)
    return nothing if name == CHANCE else selection.scores.get(name, nothing)


def weights(
    present: Bool[np.ndarray, "targets cells"], draws: int, seed: int = 0
) -> Float[np.ndarray, "d targets cells"]:
    """Weights of a mean over targets of means over their selections: the plain one first, then bootstrap draws of both.

    Example:
      >>> weights(np.array([[True, True], [True, False]]), 0).tolist()
      [[[0.25, 0.25], [0.5, 0.0]]]
    """
    if not present.any(axis=1).all():
        raise LinftError("a target has no finished selection")
    rng, (targets, cells) = np.random.default_rng(seed), present.shape
    drawn = np.zeros((1 + draws, targets, cells))
    drawn[0] = present / present.sum(axis=1, keepdims=True) / targets
    times = rng.multinomial(targets, np.full(targets, 1 / targets), size=draws)
    for i, own in enumerate(present):
        # A target that is drawn c times has its k selections drawn c k times.
        k = own.sum()
        drawn[1:, i, own] = rng.multinomial(times[:, i] * k, np.full(k, 1 / k)) / k / targets
    return drawn


def summary(selections: Sequence[Selection], reference: str) -> Mapping[str, Mapping[str, Estimate]]:
    """Score -> measure -> estimate. All scores share the bootstrap's draws.

    Args:
      reference: the model that gains are over; NaN where it is not among the models.

    Raises:
      LinftError: no selections.
    """
    if not selections:
        raise LinftError("no target has all models fine-tuned and scored yet; let the benchmark run on")
    estimates: dict[str, dict[str, Estimate]] = {}
    cells = [len(own) for own in by_target(selections)]
    drawn = weights(np.arange(max(cells))[None, :] < np.array(cells)[:, None], DRAWS)
    for measure in MEASURES:
        values = values_of(selections, measure, reference)
        means = {name: np.einsum("dtc,tc->d", drawn, value) for name, value in values.items()}
        sign = -1 if measure in SMALLER_IS_BETTER else 1
        best = np.max([sign * means[name] for name in means if name not in (CHANCE, ORACLE)], axis=0)
        for name, mean in means.items():
            low, high = np.quantile(mean[1:], [(1 - SHARE) / 2, (1 + SHARE) / 2])
            wins = (sign * mean[1:] >= best[1:] - 1e-12).mean()
            estimates.setdefault(name, {})[measure] = Estimate(float(mean[0]), float(low), float(high), float(wins))
    return estimates
