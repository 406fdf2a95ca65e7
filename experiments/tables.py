"""Tables of what experiments found, in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def markdown(title: str, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table with a sentence above it."""
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join('---' for _ in heads)} |"]
    return "\n".join([title, "", *lines, *(f"| {' | '.join(map(str, row))} |" for row in rows), ""])


def number(value: float | None) -> str:
    """Two decimals, or a dash."""
    return "–" if value is None else f"{value:.2f}"


def share(value: float | None) -> str:
    """In per cent, or a dash."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.1%}"


def spread(values: Iterable[float | None], form: str) -> str:
    """Median (largest) of those that are known, or a dash."""
    known = [value for value in values if value is not None]
    return f"{form.format(np.median(known))} ({form.format(max(known))})" if known else "–"


def settings(values: Mapping[str, Any], names: Iterable[str]) -> str:
    """The values of some settings, as far as a point has them."""
    return ", ".join(f"{values[name]:g}" for name in names if values.get(name) is not None) or "–"
