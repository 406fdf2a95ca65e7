"""Constants of a forward pass, such as weights that do not train: `batch_stats` carries them beside the statistics.

So they are arguments of what is compiled, which models of one architecture share, and belong to a model's digest.
"""

from collections.abc import Mapping
from typing import Any

CONSTANTS = "(constants)"


def statistics_of(batch_stats: Mapping[str, Any]) -> dict[str, Any]:
    """Batch norm's running statistics alone.

    Example:
      >>> held = {"norm": {"mean": 0.0, "var": 1.0}, CONSTANTS: {"weights": 2.0}}
      >>> statistics_of(held), constants_of(held)
      ({'norm': {'mean': 0.0, 'var': 1.0}}, {'(constants)': {'weights': 2.0}})
    """
    return {name: value for name, value in batch_stats.items() if name != CONSTANTS}


def constants_of(batch_stats: Mapping[str, Any]) -> dict[str, Any]:
    """The constants alone, under the name by which `batch_stats` has them."""
    return {name: value for name, value in batch_stats.items() if name == CONSTANTS}
