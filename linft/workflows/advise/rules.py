"""The papers' findings as a table of rules, each of which narrows what is searched."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from linft.core.recipe import Recipe
from linft.workflows.advise.initialization import Initialization
from linft.workflows.advise.measures import Curvature, Measures
from linft.workflows.sweep.grid import INCEPTION, GridBlock

RATES = 6  # effective rates of the whole interval
SAFE = 0.5
"""Share of the edge of stability up to which rates are searched, where the head is trained already."""
FRESH = 0.25
"""The same from a fresh head for one step; for t steps t^(-2/3) of it. Measured: experiments/sweep_truth.py."""
WIDEST = 256.0  # largest effective rate over the smallest
NARROWEST = 2.0


@dataclass(frozen=True)
class Space:
    """What is searched; as it stands, where nothing is known of the task."""

    rates: tuple[float, float] = (0.0, 1.0)
    """Part of the logarithm of the effective rate η' = η/(1 − m), from what learns half of the residual within the
    budget (0) to what is safe of the edge of stability (1)."""
    momenta: tuple[float, ...] = (0.0, 0.8, 0.9)
    reinit_groups: tuple[int, ...] = (1,)
    """Last layer groups at new random weights."""
    decays: tuple[tuple[float, float], ...] = ((0.0, 1e-4), (0.01, 0.01))
    """Pairs of α and β: α of L2-SP on what is transferred (0: none), β of L2 on the rest."""
    low_rates: tuple[float, ...] = (1.0, 0.4)
    """Rate of the lowest layers, over that of the others."""


@dataclass(frozen=True)
class Rule:
    """A finding: when it holds, what follows, who found it."""

    name: str
    condition: str
    applies: Callable[[Measures], bool]
    consequence: str
    narrows: Mapping[str, Any]
    """Fields of `Space` and their new values."""
    source: str


def _near(measures: Measures) -> bool:
    return measures.similarity == "near"


def _far(measures: Measures) -> bool:
    return measures.similarity == "far"


NEAR = "the pretrained features beat a small network from random weights"
FAR = "a small network from random weights beats the pretrained features"

RULES = (
    Rule(
        "near: small effective rate",
        NEAR,
        _near,
        "the lower half of the effective rates η/(1 − m)",
        {"rates": (0.0, 0.5)},
        "Li and others 2020, section 3.3, Fig. 4; Plested and others 2021, section 4.2, Tables 2 and 7",
    ),
    Rule(
        "near: no momentum",
        NEAR,
        _near,
        "no momentum, or 0.9 with a rate that is as much smaller",
        {"momenta": (0.0, 0.9)},
        "Li and others 2020, sections 3.2 and 3.3, Tables 2 and 3, Fig. 3",
    ),
    Rule(
        "near: more new layers",
        NEAR,
        _near,
        "the head alone, or the last layer group too, at new random weights",
        {"reinit_groups": (1, 2)},
        "Plested and others 2021, section 4.3, Tables 3 and 7",
    ),
    Rule(
        "near: L2-SP",
        NEAR,
        _near,
        "decay towards the pretrained weights, 0.01 or 0.001",
        {"decays": ((0.01, 0.01), (0.001, 0.001))},
        "Plested and others 2021, section 4.5, Tables 5 and 7; Li and others 2020, section 3.4, Table 4",
    ),
    Rule(
        "near: one rate",
        NEAR,
        _near,
        "one rate for all layers",
        {"low_rates": (1.0,)},
        "Plested and others 2021, section 4.4, Tables 4 and 7",
    ),
    Rule(
        "far: large effective rate",
        FAR,
        _far,
        "the upper half of the effective rates η/(1 − m)",
        {"rates": (0.5, 1.0)},
        "Li and others 2020, section 3.3, Fig. 4; Plested and others 2021, section 4.2, Tables 2 and 7",
    ),
    Rule(
        "far: momentum",
        FAR,
        _far,
        "momentum of 0.8 to 0.95",
        {"momenta": (0.8, 0.9, 0.95)},
        "Li and others 2020, section 3.2, Tables 2 and 3",
    ),
    Rule(
        "far: a new head alone",
        FAR,
        _far,
        "the head alone at new random weights",
        {"reinit_groups": (1,)},
        "Plested and others 2021, section 4.3, Tables 3 and 7",
    ),
    Rule(
        "far: plain L2",
        FAR,
        _far,
        "decay towards zero, 0.0001 or 0.0005",
        {"decays": ((0.0, 1e-4), (0.0, 5e-4))},
        "Plested and others 2021, section 4.5, Table 7; Li and others 2020, sections 3.1 and 3.4, Table 4",
    ),
    Rule(
        "far: low layers at a lower rate",
        FAR,
        _far,
        "0.4 or 0.6 of the rate for the lowest 8 of 22 layers",
        {"low_rates": (0.4, 0.6)},
        "Plested and others 2021, section 4.4, Tables 4 and 7",
    ),
)
"""Every rule, in the order in which they narrow the space."""


def fired(measures: Measures, rules: tuple[Rule, ...] = RULES) -> tuple[Rule, ...]:
    """The rules whose condition holds.

    Example:
      >>> near = Measures(100, {"linear_probe": 0.9, "probe_gap": 0.3}, {})
      >>> [rule.name for rule in fired(near)][:2]
      ['near: small effective rate', 'near: no momentum']
    """
    return tuple(rule for rule in rules if rule.applies(measures))


def narrowed(rules: tuple[Rule, ...], space: Space = Space()) -> Space:
    """The space as rules leave it.

    Example:
      >>> narrowed(tuple(rule for rule in RULES if rule.name == "near: one rate")).low_rates
      (1.0,)
    """
    for rule in rules:
        space = dataclasses.replace(space, **rule.narrows)
    return space


def safe(initialization: Initialization, steps: int) -> float:
    """Share of the start's edge of stability up to which rates are searched for so many steps.

    A fresh head near zero hides the curvature of the layers below it, which grows as the square of the head's length,
    and that at first as η' t. So η' (η' t)² is what stability bounds, and η' goes as t^(-2/3).

    Example:
      >>> [round(safe(Initialization(), steps), 3) for steps in (1, 30, 120)], safe(Initialization("probe"), 120)
      ([0.25, 0.026, 0.01], 0.5)
    """
    return SAFE if initialization.head == "probe" else FRESH * steps ** (-2 / 3)


def effective_rates(space: Space, of: Curvature, recipe: Recipe, steps: int, share: float) -> tuple[float, ...]:
    """Values of η' for one start and the momentum of a recipe, even in the logarithm, up to a share of the edge.

    Where no such rate learns half of the residual in the steps that there are, no rule leaves out the larger ones: the
    papers' small rates are those of long runs.

    Example:
      >>> flat = Curvature(1.0, 1.0, 4.0, (4.0,), (1.0,), {})
      >>> [round(rate, 2) for rate in effective_rates(Space(), flat, Recipe(momentum=0.0), 40, 0.8)]
      [0.1, 0.17, 0.3, 0.53, 0.92, 1.6]
    """
    high = share * of.edge(recipe)
    if not math.isfinite(high):
        return (recipe.learning_rate / (1 - recipe.momentum),)
    low = min(max(of.learning(steps), high / WIDEST), high / NARROWEST)
    places = [i / (RATES - 1) for i in range(RATES)]
    step = 1 / (RATES - 1) / 2  # a half keeps the rate at its border
    first, last = space.rates if of.learning(steps) <= high else (space.rates[0], 1.0)
    return tuple(low * (high / low) ** place for place in places if first - step <= place <= last + step)


def blocks(
    space: Space, starts: Mapping[int, Curvature], layer_groups: int, base: Recipe, steps: int, share: float
) -> list[GridBlock]:
    """The space as blocks of a grid, whose rates are those of each start and momentum.

    Args:
      space: what is searched.
      starts: the curvature by number of new groups.
      layer_groups: of the model; the 8 lowest of Inception v4's 22 layers become the same share of those below its
        head.
      base: the recipe that the others vary.
      steps: of the run.
      share: of the edge of stability, up to which rates go.
    """
    low_groups = max(1, round(8 * (layer_groups - 1) / INCEPTION))
    found: list[GridBlock] = []
    for (reinit_groups, of), momentum in itertools.product(starts.items(), space.momenta):
        for effective in effective_rates(space, of, base.replace(momentum=momentum), steps, share):
            rate = float(f"{effective * (1 - momentum):.2g}")
            start = {"reinit_groups": (reinit_groups,), "momentum": (momentum,), "learning_rate": (rate,)}
            for (l2sp, weight_decay), lower in itertools.product(space.decays, space.low_rates):
                low = {} if lower == 1 else {"low_rate": (float(f"{lower * rate:.2g}"),), "low_groups": (low_groups,)}
                found.append({**start, "l2sp": (l2sp,), "weight_decay": (weight_decay,), **low})
    return found
