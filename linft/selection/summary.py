"""Every measure of every score over targets and seeds, with intervals over both: rankings of scores are unstable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from linft.errors import LinftError
from linft.selection.choices import Choice
from linft.selection.measures import MEASURES, SMALLER_IS_BETTER, Vector

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


def values_of(
    choices: Sequence[Choice], measure: str, reference: str
) -> tuple[dict[str, Float[np.ndarray, "targets cells"]], Bool[np.ndarray, "targets cells"]]:
    """Score -> its measure for each target and each choice of it; and which of these there are."""
    targets = list(dict.fromkeys(choice.target for choice in choices))
    of_target = [[choice for choice in choices if choice.target == target] for target in targets]
    cells = max(map(len, of_target), default=0)
    names = dict.fromkeys(name for choice in choices for name in choice.scores)
    present = np.array([[j < len(own) for j in range(cells)] for own in of_target])
    values = {name: np.zeros(present.shape) for name in (*names, CHANCE, ORACLE)}
    for i, own in enumerate(of_target):
        for j, choice in enumerate(own):
            base = choice.of(reference, choice.accuracies)
            for name in values:
                values[name][i, j] = MEASURES[measure](choice.accuracies, _scores(choice, name), base)
    return values, present


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
    for d in range(1, 1 + draws):
        for i in rng.integers(targets, size=targets):
            own = np.flatnonzero(present[i])
            np.add.at(drawn[d, i], rng.choice(own, len(own)), 1 / len(own) / targets)
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
    for measure in MEASURES:
        values, present = values_of(choices, measure, reference)
        drawn = weights(present, DRAWS)
        means = {name: np.einsum("dtc,tc->d", drawn, value) for name, value in values.items()}
        sign = -1 if measure in SMALLER_IS_BETTER else 1
        best = np.max([sign * means[name] for name in means if name not in (CHANCE, ORACLE)], axis=0)
        for name, mean in means.items():
            low, high = np.quantile(mean[1:], [(1 - SHARE) / 2, (1 + SHARE) / 2])
            wins = (sign * mean[1:] >= best[1:] - 1e-12).mean()
            estimates.setdefault(name, {})[measure] = Estimate(float(mean[0]), float(low), float(high), float(wins))
    return estimates
