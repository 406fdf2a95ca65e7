"""The consensus of a ranking, and what each of its scores says of the models."""

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from linft.report.style import LIGHT, NARROW, WIDE, Drawing
from linft.report.words import elided
from linft.workflows.rank.result import RankedModel, RankingResult


def consensus(ranking: RankingResult, narrow: bool) -> Drawing | None:
    """Every model's consensus with its interval, and beside it its place by every score."""
    entries = {row.model: row.consensus for row in ranking.models if row.consensus is not None}
    rows = [row for row in ranking.models if row.model in entries]
    if len(rows) < 2:
        return None
    figure = Figure(figsize=(NARROW if narrow else WIDE, 0.17 * len(rows) + 1.1), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, 1 if narrow else 2, squeeze=False, sharey=True, width_ratios=[1] if narrow else [1, 1.1])
    axes = grid[0, 0]
    for y, entry in enumerate(entries.values()):
        colour = LIGHT["vermilion" if entry.group == 0 else "blue"]
        if entry.low is not None and entry.high is not None:
            axes.plot([entry.low, entry.high], [y, y], color=colour, linewidth=1.3)
        axes.plot(entry.value, y, "o", color=colour, markersize=3.4)
    axes.set_yticks(range(len(rows)), [elided(model, 32) for model in entries], color=LIGHT["ink"], size=7)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("share of the others beaten")
    axes.tick_params(axis="y", length=0)
    if not narrow:
        _places(grid[0, 1], ranking, rows)
    first = [model for model, entry in entries.items() if entry.group == 0]
    title = f"{first[0]} comes first" if len(first) == 1 else f"{len(first)} models cannot be told apart at the top"
    caption = (
        "The share of the other models that a model beats, over all scores, with the interval that other samples of "
        "images would give; in red those that cannot be told apart from the first."
    )
    return Drawing(figure, title, caption + ("" if narrow else " Right: the place by each score, dark for the first."))


def _places(axes: Any, ranking: RankingResult, rows: list[RankedModel]) -> None:
    names = [name for name in ranking.scores if any(name in row.scores for row in rows)]
    values = np.array(
        [[row.scores[name].value if name in row.scores else np.nan for name in names] for row in rows], float
    )
    known = (~np.isnan(values)).sum(0)
    above = (values[None, :, :] > values[:, None, :]).sum(1)  # [model, score]: how many are better
    places = np.where(np.isnan(values), np.nan, above / np.maximum(known - 1, 1)[None, :])
    axes.imshow(places, cmap="Blues_r", vmin=0, vmax=1.15, aspect="auto", interpolation="nearest")
    axes.set_xticks(range(len(names)), names, rotation=60, ha="left", rotation_mode="anchor", size=6.5)
    axes.tick_params(axis="x", top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    axes.tick_params(axis="y", length=0)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
