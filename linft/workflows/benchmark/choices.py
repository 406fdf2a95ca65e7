"""Truth and scores side by side: one choice among the models of a zoo, for each target, number of shots and seed."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from linft.workflows.benchmark.measures import Vector
from linft.workflows.benchmark.settings import Shots


@dataclass(frozen=True)
class Choice:
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


def choices(
    truth: Iterable[Mapping[str, Any]], scored: Iterable[Mapping[str, Any]], models: Mapping[str, Collection[str]]
) -> list[Choice]:
    """A choice for every target, shots and seed at which all the models were fine-tuned and scored.

    A rate counts where every model was run at it, so that models are compared alike while runs go on.

    Args:
      truth: rows of `truth.truth`.
      scored: rows of `scored.scored`, for one number of images.
      models: target -> the models that there are to choose from.
    """
    runs: dict[tuple, dict[str, dict[float, Mapping]]] = defaultdict(lambda: defaultdict(dict))
    for row in truth:
        if row["model"] in models.get(row["target"], ()):
            runs[row["target"], row["shots"], row["seed"]][row["model"]][row["rate"]] = row
    before = {(row["target"], row["shots"], row["seed"], row["model"]): row for row in scored}
    found = []
    for (target, shots, seed), by_model in runs.items():
        names = tuple(sorted(models[target]))
        rates = set.intersection(*(set(by_model[model]) for model in names))
        places = [(target, shots, seed, model) for model in names]
        if rates and all(place in before for place in places):
            rows = [before[place] for place in places]
            best = [max(by_model[model][rate]["test_accuracy"] for rate in rates) for model in names]
            ran = [by_model[model][rate] for model in names for rate in rates]
            one_device = len({row["device"] for row in (*ran, *rows)}) == 1
            quickest = [min(by_model[m][r]["seconds"] for r in rates) if one_device else np.nan for m in names]
            scores, seconds = (_by_score(rows, what) for what in ("scores", "seconds"))
            found.append(Choice(target, shots, seed, names, np.array(best), np.array(quickest), scores, seconds))
    return found


def _by_score(rows: Sequence[Any], what: str) -> dict[str, Float[np.ndarray, "m"]]:
    names = dict.fromkeys(name for row in rows for name in row[what])
    return {name: np.array([row[what].get(name, np.nan) for row in rows], float) for name in names}
