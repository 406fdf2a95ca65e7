"""The benchmark of model selection in pictures: gains target by target, measures score by score, images a class."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from linft.report.selection.tables import images, ranked
from linft.report.style import LIGHT, WIDE
from linft.workflows.benchmark.selections import CHANCE, ORACLE, Estimate, Selection, summary, values_of

COLOURS = ("blue", "vermilion", "green", "purple", "amber", "ink")


def gains(selections: Sequence[Selection], reference: str, measure: str = "gain of top 3") -> Figure:
    """Gain over the reference: a row a target and number of images, a column a score, the best first (Fig. 4)."""
    names = [ORACLE, *ranked(summary(selections, reference), measure), CHANCE]
    rows = list(dict.fromkeys((selection.shots, selection.target) for selection in selections))
    table = np.empty((len(rows), len(names)))
    for i, (shots, target) in enumerate(rows):
        values = values_of([c for c in selections if (c.shots, c.target) == (shots, target)], measure, reference)
        table[i] = [values[name].mean() if name in values else np.nan for name in names]
    table = np.vstack([table, np.nanmean(table, axis=0)])
    labels = [*(f"{target}, {images(shots)}" for shots, target in rows), "mean"]
    figure, axes = _canvas(0.26 * len(labels) + 1.3)
    most = max(0.01, float(np.nanquantile(np.abs(table), 0.95)))  # where the colour is full
    axes.imshow(table, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    for (i, j), value in np.ndenumerate(table):
        if np.isfinite(value):
            colour = "white" if abs(value) > 0.6 * most else LIGHT["ink"]
            axes.text(j, i, f"{100 * value:+.0f}", ha="center", va="center", size=6.5, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="left", rotation_mode="anchor", size=7)
    axes.set_yticks(range(len(labels)), labels, size=7)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    axes.axhline(len(rows) - 0.5, color=LIGHT["paper"], linewidth=3)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def measures(selections: Sequence[Selection], reference: str) -> Figure:
    """Mean and interval of every score: gain of the top 3, trials until the best, rank correlation (Fig. 6)."""
    estimates = summary(selections, reference)
    names = [ORACLE, *ranked(estimates, "gain of top 3"), CHANCE]
    shown = ("gain of top 3", "trials until the best", "Spearman", "weighted tau")
    figure = Figure(figsize=(WIDE, 0.21 * len(names) + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, measure in zip(figure.subplots(1, len(shown), sharey=True), shown, strict=True):
        for row, name in enumerate(names):
            _interval(axes, row, estimates[name][measure], LIGHT["grey" if name in (CHANCE, ORACLE) else "blue"])
        axes.axvline(estimates[CHANCE][measure].mean, color=LIGHT["muted"], linewidth=0.7, linestyle="--", zorder=0.9)
        axes.set_title(measure, size=8)
    axes.set_yticks(range(len(names)), names, size=7)
    axes.set_ylim(len(names) - 0.5, -0.5)
    return figure


def images_a_class(by_images: Mapping[str, Sequence[Selection]], reference: str, most: int = len(COLOURS)) -> Figure:
    """A measure against how many images a class the scores see (Fig. 7), of the best scores and of chance.

    Args:
      by_images: number of images in words -> selections with scores of so many.
      most: scores that are drawn.
    """
    estimates = {shown: summary(selections, reference) for shown, selections in by_images.items()}
    names = ranked(list(estimates.values())[-1], "weighted tau")[:most]
    figure = Figure(figsize=(WIDE, 3.0), layout="constrained")
    FigureCanvasAgg(figure)
    places, panels = range(len(estimates)), figure.subplots(1, 2)
    for axes, measure in zip(panels, ("gain of top 3", "weighted tau"), strict=True):
        for colour, name in zip((*COLOURS[: len(names)], "grey"), (*names, CHANCE), strict=True):
            own = [of[name][measure].mean if name in of else np.nan for of in estimates.values()]
            axes.plot(places, own, color=LIGHT[colour], marker="o", markersize=3.5, label=name)
        axes.set_xticks(places, list(estimates))
        axes.set(title=measure, xlabel="images a class that are scored")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
    return figure


def accuracies(selections: Sequence[Selection], reference: str) -> Figure:
    """Every model's fine-tuned accuracy on every target, with the reference expert marked (Fig. 2)."""
    shots = list(dict.fromkeys(selection.shots for selection in selections))
    targets = list(dict.fromkeys(selection.target for selection in selections))
    figure = Figure(figsize=(WIDE, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subplots(1, len(shots), sharey=True))
    for axes, number in zip(panels, shots, strict=True):
        for place, target in enumerate(targets):
            own = [c for c in selections if (c.target, c.shots) == (target, number)]
            if not own:
                continue
            mean = np.mean([selection.accuracies for selection in own], axis=0)
            jitter = np.random.default_rng(0).uniform(-0.2, 0.2, len(mean))
            axes.plot(place + jitter, mean, color=LIGHT["blue"], marker="o", markersize=3, linestyle="", alpha=0.5)
            base = own[0].of(reference, mean)
            axes.plot([place - 0.3, place + 0.3], [base, base], color=LIGHT["vermilion"], linewidth=1.8)
        axes.set_xticks(range(len(targets)), targets, rotation=35, ha="right", size=7)
        axes.set_title(images(number))
        axes.set_xlim(-0.5, len(targets) - 0.5)
    panels[0].set_ylabel("test accuracy")
    panels[-1].plot([], [], color=LIGHT["blue"], marker="o", linestyle="", markersize=3, label="a model")
    panels[-1].plot([], [], color=LIGHT["vermilion"], linewidth=1.8, label=reference)
    figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7)
    return figure


def _interval(axes: Axes, row: int, of: Estimate, colour: str) -> None:
    axes.plot([of.low, of.high], [row, row], color=colour, linewidth=1.6)
    axes.plot([of.mean], [row], color=colour, marker="o", markersize=3.5)


def _canvas(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDE, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()
