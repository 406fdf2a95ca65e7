"""Figures of a sweep: heat maps, error against the effective rate, parallel coordinates."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize

from linft.report.style import GROUND, LIGHT, Drawing, log_scale, panels, percent_scale
from linft.report.words import fixed, percent, plain, points, signed
from linft.workflows.sweep.result import Row, key

# On cells, whose colours are the same on light and dark ground; so these are not of the palette, which is not.
DARK, BRIGHT, EMPTY = "#14171c", "#fdfdfc", "#c9ccd1"
ACCURACY = LinearSegmentedColormap.from_list("accuracy", ["#eef4f9", "#7fb4d8", "#0b5d94"])
DIFFERENCE = LinearSegmentedColormap.from_list("difference", ["#c25400", "#f7f5f2", "#0b6aa8"])
COLOURS = ("vermilion", "blue", "green", "purple", "amber", "grey", "ink")
FIRST = ("learning_rate", "momentum", "weight_decay")
"""Settings that are drawn along axes before others."""
MOST = 4  # values of the other settings that have heat maps of their own


def varying(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Settings that take several values, with these in order; those of FIRST come first."""
    names = dict.fromkeys([*FIRST, *(name for row in rows for name in row.values)])
    values = {name: list(dict.fromkeys(r.values[name] for r in rows if name in r.values)) for name in names}
    return {name: sorted(of, key=_order) for name, of in values.items() if len(of) > 1}


def _order(value: Any) -> tuple[int, Any]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, value) if number else (1, str(value))


def heat_maps(predicted: Sequence[Row] | None, real: Sequence[Row] | None, narrow: bool) -> Drawing | None:
    """Test accuracy over the two settings that vary most, predicted, real, and their difference."""
    maps = [(name, rows) for name, rows in (("Predicted", predicted), ("Real", real)) if rows]
    settings = varying([row for _, rows in maps for row in rows])
    if len(settings) < 2:
        return None
    x, y, *others = settings
    facets = _facets([row for _, rows in maps for row in rows], others)
    columns = len(maps) + (len(maps) == 2)
    height = 0.95 + 0.26 * len(settings[y])
    figure, axes = panels(narrow, [height] * (columns * len(facets)), columns)
    scale = Normalize(*_range([row for _, rows in maps for row in rows]))
    for i, (title, chosen) in enumerate(facets.items()):
        cells = [_cells(rows, chosen, x, y, settings) for _, rows in maps]
        here = axes[i * columns : (i + 1) * columns]
        for (name, rows), values, ax in zip(maps, cells, here, strict=False):
            _paint(ax, values, ACCURACY, scale, lambda v: fixed(100 * v, 0), _doubtful(rows, chosen, x, y, settings))
            ax.set_title(f"{name}{title}")
        if len(maps) == 2:
            difference = _minus(*cells)
            _paint(here[2], difference, DIFFERENCE, Normalize(-0.2, 0.2), lambda v: signed(100 * v, 0))
            here[2].set_title(f"Difference{title}")
        for ax in here:
            _label(ax, x, y, settings)
    caption = "Test accuracy in per cent, of every point. A cross: the run diverged; grey: there is no such point, or "
    caption += "its run did not end."
    if any(_is_doubtful(row) for _, rows in maps for row in rows):
        caption += " A question mark: the prediction does not say of itself that it holds."
    if set(others) - {name for chosen in facets.values() for name in chosen}:
        caption += " The best of the settings that are not shown."
    return Drawing(figure, _heat_title(predicted, real), caption)


def _heat_title(predicted: Sequence[Row] | None, real: Sequence[Row] | None) -> str:
    if not (predicted and real):
        return f"Test accuracy over the grid, {'predicted' if predicted else 'real'}"
    truth = {key(row.values): row.accuracy for row in real}
    differences = [
        abs(row.accuracy - truth[key(row.values)])
        for row in predicted
        if np.isfinite(row.accuracy - truth.get(key(row.values), np.nan))
    ]
    if not differences:
        return "No point ended both as predicted and really"
    return f"Predicted test accuracy is off by {points(float(np.mean(differences))).lstrip('+')} on average"


def _facets(rows: Sequence[Row], others: list[str]) -> dict[str, dict[str, Any]]:
    """Title -> the values of another setting that have maps of their own; the setting with the fewest values."""
    settings = varying(rows)
    few = [name for name in others if len(settings[name]) <= MOST]
    if not few:
        return {"": {}}
    name = min(few, key=lambda name: (name != "weight_decay", len(settings[name])))
    return {f"\n{name.replace('_', ' ')} {plain(value)}": {name: value} for value in settings[name]}


def _cells(rows: Sequence[Row], chosen: dict[str, Any], x: str, y: str, settings: dict[str, list[Any]]) -> np.ndarray:
    """Best test accuracy at each (y, x): NaN where no run ended, −1 where all that did diverged."""
    cells = np.full((len(settings[y]), len(settings[x])), np.nan)
    for row in rows:
        values = row.values
        if any(values.get(name) != value for name, value in chosen.items()) or x not in values or y not in values:
            continue
        place = settings[y].index(values[y]), settings[x].index(values[x])
        if row.status == "diverged":
            cells[place] = np.fmax(cells[place], -1.0)
        elif row.test_accuracy is not None:
            cells[place] = np.fmax(cells[place], row.test_accuracy)
    return cells


def _doubtful(
    rows: Sequence[Row], chosen: dict[str, Any], x: str, y: str, settings: dict[str, list[Any]]
) -> np.ndarray:
    """Whether a cell's value comes from a prediction that is said not to hold."""
    return _cells(rows, chosen, x, y, settings) != _cells(
        [row for row in rows if not _is_doubtful(row)], chosen, x, y, settings
    )


def _is_doubtful(row: Row) -> bool:
    return row.leaves or (row.certificate is not None and not row.certificate.holds)


def _minus(predicted: np.ndarray, real: np.ndarray) -> np.ndarray:
    """The difference where both ended; −2 where either diverged, to be crossed."""
    difference = predicted - real
    crossed = (predicted == -1) | (real == -1)
    return np.where(crossed & ~np.isnan(difference), -2.0, difference)


def _range(rows: Sequence[Row]) -> tuple[float, float]:
    found = [row.test_accuracy for row in rows if row.test_accuracy is not None]
    return (min(found), max(found)) if len(set(found)) > 1 else (0.0, 1.0)


def _paint(
    axes: Axes, cells: np.ndarray, colours: Any, scale: Normalize, text: Any, doubtful: np.ndarray | None = None
) -> None:
    """Coloured cells with their numbers, those in doubt with a question mark."""
    crossed = cells <= -1
    shown = np.ma.masked_where(np.isnan(cells) | crossed, cells)
    axes.set_facecolor(EMPTY)
    axes.pcolormesh(shown, cmap=colours, norm=scale, edgecolors=BRIGHT, linewidth=0.6)
    axes.grid(False)
    for (i, j), value in np.ndenumerate(cells):
        if np.isnan(value):
            continue
        colour = DARK
        if not crossed[i, j]:
            red, green, blue, _ = colours(scale(value))
            colour = DARK if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else BRIGHT
        shown_text = "×" if crossed[i, j] else text(value)
        if doubtful is not None and doubtful[i, j]:
            shown_text += "?"
        axes.text(j + 0.5, i + 0.5, shown_text, ha="center", va="center", size=7, color=colour)


def _label(axes: Axes, x: str, y: str, settings: dict[str, list[Any]]) -> None:
    axes.set_xticks(np.arange(len(settings[x])) + 0.5, [plain(value) for value in settings[x]], rotation=45)
    axes.set_yticks(np.arange(len(settings[y])) + 0.5, [plain(value) for value in settings[y]])
    axes.set_xlabel(x.replace("_", " "))
    axes.set_ylabel(y.replace("_", " "))
    axes.tick_params(length=0)


def effective_rate(predicted: Sequence[Row] | None, real: Sequence[Row] | None, narrow: bool) -> Drawing | None:
    """Test error against η/(1 − m), a curve for each momentum: the least over all other settings."""
    maps = [(name, _ended(rows)) for name, rows in (("Predicted", predicted), ("Real", real)) if rows]
    every = [row for _, rows in maps for row in rows]
    if len({row.effective_rate for row in every}) < 3:
        return None
    momenta = varying(every).get("momentum", [None])
    figure, axes = panels(narrow, [2.6] * len(maps), columns=len(maps))
    for ax, (name, rows) in zip(axes, maps, strict=True):
        for momentum, colour in zip(momenta, COLOURS, strict=False):
            of_momentum = [row for row in rows if momentum is None or row.values.get("momentum") == momentum]
            label = "" if momentum is None else f"m = {plain(momentum)}"
            rates, errors = _least_errors(of_momentum)
            ax.plot(rates, errors, "o-", color=LIGHT[colour], markersize=3.6, linewidth=1.3, label=label)
        ax.set_title(name)
        log_scale(ax, "x")
        percent_scale(ax.yaxis)
        ax.set_xlabel("effective rate η/(1 − m)")
    axes[0].set_ylabel("test error")
    low, high = min(ax.get_ylim()[0] for ax in axes), max(ax.get_ylim()[1] for ax in axes)
    for ax in axes:
        ax.set_ylim(low, high)
    if len(momenta) > 1:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2 if narrow else 5)
    best = max(_ended(real or predicted or ()), key=lambda row: row.accuracy, default=every[0])
    title = f"Error against the effective learning rate: least at {plain(best.effective_rate)}"
    caption = "Test error at the end of a run, the least over all other settings; diverged runs are left out. "
    return Drawing(figure, title, caption + "Where equal η/(1 − m) gives equal errors, the curves lie on one another.")


def _ended(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.test_accuracy is not None]


def _least_errors(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """Effective rates in order, and the least error at each."""
    found: dict[float, float] = {}
    for row in rows:
        rate = float(f"{row.effective_rate:.6g}")
        found[rate] = min(found.get(rate, 1.0), 1 - row.accuracy)
    return sorted(found), [found[rate] for rate in sorted(found)]


def parallel_coordinates(predicted: Sequence[Row] | None, real: Sequence[Row] | None, narrow: bool) -> Drawing | None:
    """Every point as a line through its settings to its test accuracy, the better the darker."""
    rows = sorted(_ended(real or predicted or ()), key=lambda row: row.accuracy)
    settings = varying(rows)
    if not settings or len(rows) < 2:
        return None
    figure, (axes,) = panels(narrow, [3.2])
    low, high = _range(rows)
    for row in rows:
        heights = [_height(values, row.values.get(name)) for name, values in settings.items()]
        share = (row.accuracy - low) / (high - low)
        colour, places = ACCURACY(0.25 + 0.75 * share), range(len(heights) + 1)
        axes.plot(places, [*heights, share], color=colour, linewidth=0.9 + share, zorder=2 + share)
    for i, values in enumerate(settings.values()):
        _ticks(axes, i, [(_height(values, value), plain(value)) for value in values])
    _ticks(axes, len(settings), [(share, percent(low + share * (high - low), 0)) for share in (0, 0.5, 1)])
    axes.set_xticks(range(len(settings) + 1), [name.replace("_", " ") for name in [*settings, "accuracy"]])
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(False)
    best = rows[-1].values
    chosen = ", ".join(f"{name.replace('_', ' ')} {plain(best[name])}" for name in settings if name in best)
    caption = "A line for every point that did not diverge, to its test accuracy, "
    caption += f"{'really reached' if real else 'predicted'}; the better the darker."
    return Drawing(figure, f"The best point: {chosen}", caption)


def _ticks(axes: Axes, place: int, ticks: list[tuple[float, str]]) -> None:
    """One of the parallel axes, with values beside it."""
    axes.axvline(place, color=LIGHT["muted"], linewidth=0.7)
    for height, text in ticks:
        axes.text(place, height, f" {text}", size=7, va="center", color=LIGHT["ink"], bbox=GROUND, zorder=9)


def _height(values: list[Any], value: Any) -> float:
    """Evenly, in order; what a point does not set lies below."""
    return values.index(value) / (len(values) - 1) if value in values else -0.12
