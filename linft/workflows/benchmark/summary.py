"""Every measure of every score over targets and seeds, with intervals over both: rankings of scores are unstable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from linft.core.errors import LinftError
from linft.workflows.benchmark.choices import Choice
from linft.workflows.benchmark.measures import MEASURES, SMALLER_IS_BETTER, Vector

CHANCE, ORACLE = "any model", "the truth itself"
"""Rows beside the scores: the expectation of a choice at random, and a choice by what came out."""
SHARE = 0.95  # of the bootstrap, within an interval
DRAWS = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean over targets, and how far it can be trusted."""

    mean: float
    low: float
    high: float
    """Ends of the interval."""
    wins: float
    """Share of the draws in which no other score does better."""


def by_target(choices: Sequence[Choice]) -> list[list[Choice]]:
    """The choices of every target: its cells."""
    targets = dict.fromkeys(choice.target for choice in choices)
    return [[choice for choice in choices if choice.target == target] for target in targets]


def values_of(choices: Sequence[Choice], measure: str, reference: str) -> dict[str, Float[np.ndarray, "targets cells"]]:
    """Score -> its measure for each target and each choice of it; 0 where there is none."""
    of_target = by_target(choices)
    names = dict.fromkeys(name for choice in choices for name in choice.scores)
    values = {name: np.zeros((len(of_target), max(map(len, of_target)))) for name in (*names, CHANCE, ORACLE)}
    for i, own in enumerate(of_target):
        for j, choice in enumerate(own):
            base = choice.of(reference, choice.accuracies)
            for name in values:
                values[name][i, j] = MEASURES[measure](choice.accuracies, _scores(choice, name), base)
    return values


def _scores(choice: Choice, name: str) -> Vector:
    if name == ORACLE:
        return choice.accuracies
    nothing = np.full(len(choice.models), np.nan)
    return nothing if name == CHANCE else choice.scores.get(name, nothing)


def weights(
    present: Bool[np.ndarray, "targets cells"], draws: int, seed: int = 0
) -> Float[np.ndarray, "d targets cells"]:
    """Weights of a mean over targets of means over their choices: the plain one first, then bootstrap draws of both.

    Example:
      >>> weights(np.array([[True, True], [True, False]]), 0).tolist()
      [[[0.25, 0.25], [0.5, 0.0]]]
    """
    if not present.any(axis=1).all():
        raise LinftError("a target has no finished choice")
    rng, (targets, cells) = np.random.default_rng(seed), present.shape
    drawn = np.zeros((1 + draws, targets, cells))
    drawn[0] = present / present.sum(axis=1, keepdims=True) / targets
    times = rng.multinomial(targets, np.full(targets, 1 / targets), size=draws)
    for i, own in enumerate(present):
        # A target that is drawn c times has its k choices drawn c k times.
        k = own.sum()
        drawn[1:, i, own] = rng.multinomial(times[:, i] * k, np.full(k, 1 / k)) / k / targets
    return drawn


def summary(choices: Sequence[Choice], reference: str) -> Mapping[str, Mapping[str, Estimate]]:
    """Score -> measure -> estimate. All scores share the bootstrap's draws.

    Args:
      reference: the model that gains are over; NaN where it is not among the models.

    Raises:
      LinftError: no choices.
    """
    if not choices:
        raise LinftError("no target has all models fine-tuned and scored yet; let the benchmark run on")
    estimates: dict[str, dict[str, Estimate]] = {}
    cells = [len(own) for own in by_target(choices)]
    drawn = weights(np.arange(max(cells))[None, :] < np.array(cells)[:, None], DRAWS)
    for measure in MEASURES:
        values = values_of(choices, measure, reference)
        means = {name: np.einsum("dtc,tc->d", drawn, value) for name, value in values.items()}
        sign = -1 if measure in SMALLER_IS_BETTER else 1
        best = np.max([sign * means[name] for name in means if name not in (CHANCE, ORACLE)], axis=0)
        for name, mean in means.items():
            low, high = np.quantile(mean[1:], [(1 - SHARE) / 2, (1 + SHARE) / 2])
            wins = (sign * mean[1:] >= best[1:] - 1e-12).mean()
            estimates.setdefault(name, {})[measure] = Estimate(float(mean[0]), float(low), float(high), float(wins))
    return estimates
