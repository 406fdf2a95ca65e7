"""Bars over the layer groups, from the input to the head: kernel share, distance moved, kernel drift."""

import math
from collections.abc import Callable, Iterable

from matplotlib.axes import Axes

from linft.report import reading
from linft.report.reading import Result
from linft.report.runs import label
from linft.report.style import GROUND, LIGHT, Drawing, panels, percent_scale
from linft.report.words import elided, fixed, known, number, percent


def group_share(result: Result, narrow: bool) -> Drawing | None:
    """Each layer group's share of the kernel’s trace."""
    shares = _known(result.kernel.group_share)
    if not shares:
        return None
    figure, (axes,) = panels(narrow, [_height(len(shares), 1)])
    _bars(axes, shares, [("", shares, "blue")], percent)
    percent_scale(axes.xaxis)
    axes.set_xlabel("share of the kernel’s trace")
    largest = max(shares, key=lambda group: shares[group])
    title = f"“{largest}” carries {percent(shares[largest], 0)} of the kernel"
    caption = "The share of each layer group in the kernel’s trace: how fast the outputs would move by it alone."
    return Drawing(figure, title, caption)


def distance(result: Result, narrow: bool) -> Drawing | None:
    """How far each layer group moved by the end, really and as predicted."""
    real, predicted = result.reference, reading.prediction(result)
    if predicted is None:
        return None
    names = [real, predicted]
    moved = {name: reading.distances(reading.curves(result)[name]) for name in names}
    if not all(moved.values()):
        return None
    totals = {name: math.hypot(*moved[name].values()) for name in names}
    groups = [group for group in moved[real] if group in moved[predicted]]
    rows = {name: {**{group: moved[name][group] for group in groups}, "all layers": totals[name]} for name in names}
    figure, (axes,) = panels(narrow, [_height(len(groups) + 1, 2) + 0.35])
    bars = [(label(real), rows[real], "ink"), (label(predicted), rows[predicted], "vermilion")]
    _bars(axes, rows[real], bars, number)
    axes.set_xlabel("distance from the pretrained weights")
    figure.legend(loc="outside upper left", ncols=2, handlelength=1.2)
    ratio = number(totals[real] / totals[predicted] if totals[predicted] else None, 2)
    title = f"Really trained, the weights move {'' if ratio == '1' else f'{ratio} times '}as far as predicted"
    caption = "The Euclidean distance of each layer group from its pretrained weights after the last update."
    return Drawing(figure, title, caption)


def drift(result: Result, narrow: bool) -> Drawing | None:
    """How much of each layer group's kernel is the same after training."""
    if result.kernel.drift is None:
        return None
    found = result.kernel.drift.at[-1].with_start
    groups = _known(found.groups)
    if not groups:
        return None
    told = result.kernel.predicted_drift
    predicted = {} if told is None else _known(told.at[-1].with_start.groups)
    series = [("", groups, "blue")]
    if groups.keys() <= predicted.keys():
        series = [("Really trained", groups, "ink"), ("Predicted, the kernel moving", predicted, "teal")]
    figure, (axes,) = panels(narrow, [_height(len(groups), len(series)) + 0.35 * (len(series) - 1)])
    _bars(axes, groups, series, lambda value: fixed(value, 2))
    if len(series) > 1:
        figure.legend(loc="outside upper left", ncols=2, handlelength=1.2)
    axes.set_xlim(0, 1)
    axes.set_xlabel("alignment of the kernel before and after")
    lowest = min(groups, key=lambda group: groups[group])
    overall = found.whole
    if known(overall):
        axes.axvline(overall, color=LIGHT["ink"], linewidth=1, linestyle=(0, (3, 2)))
        title = f"The trained kernel is aligned {fixed(overall, 2)} with the one at the start; "
        title += f"“{lowest}” turned most, to {fixed(groups[lowest], 2)}"
    else:
        title = f"“{lowest}” turned most, to an alignment of {fixed(groups[lowest], 2)}"
    caption = (
        "The cosine between the kernels at the pretrained and at the trained weights: 1 where the kernel "
        "stood still, as the linear prediction supposes. Dashed: the whole kernel."
    )
    return Drawing(figure, title, caption)


def _known(values: dict[str, float | None]) -> dict[str, float]:
    return {group: value for group, value in values.items() if known(value)}


def _height(rows: int, bars: int) -> float:
    return 0.65 + rows * (0.1 + 0.16 * bars)


def _bars(
    axes: Axes,
    groups: Iterable[str],
    series: list[tuple[str, dict[str, float], str]],
    text: Callable[[float], str],
) -> None:
    """Horizontal bars with their values, the first group on top."""
    names = list(groups)
    size = 0.72 / len(series)
    for place, (name, values, colour) in enumerate(series):
        rows = [row + size * (place - (len(series) - 1) / 2) for row in range(len(names))]
        bars = axes.barh(
            rows, [values[group] for group in names], height=0.88 * size, color=LIGHT[colour], label=name or "_"
        )
        axes.bar_label(bars, [text(values[group]) for group in names], padding=3, size=7.5, bbox=GROUND)
    axes.set_yticks(range(len(names)), [elided(group, 22) for group in names], color=LIGHT["ink"])
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.margins(x=0.12)
