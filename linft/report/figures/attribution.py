"""The gap between prediction and reality as a waterfall of its causes."""

import textwrap

import numpy as np
from matplotlib.axes import Axes

from linft.report import reading
from linft.report.reading import Result
from linft.report.style import GROUND, LIGHT, Drawing, panels
from linft.report.words import capital, signed


def attribution(result: Result, narrow: bool) -> Drawing | None:
    """One bar a link, each starting where the last one ended, and their total."""
    links, total = result.attribution.links, result.attribution.total
    if total is None:
        return None
    changes = [link.mean_train_loss for link in links]
    ends = np.cumsum(np.nan_to_num(reading.array(changes)))
    lengths = [*np.diff(ends, prepend=0.0), total.mean_train_loss or 0.0]
    starts = [0.0, *ends[:-1], 0.0]
    rows = range(len(links) + 1)
    figure, (axes,) = panels(narrow, [(0.44 if narrow else 0.3) * len(rows) + 0.55])
    colours = [LIGHT["vermilion" if change > 0 else "blue"] for change in lengths[:-1]] + [LIGHT["ink"]]
    axes.barh(rows, lengths, left=starts, height=0.4 if narrow else 0.6, color=colours)
    for row, end in zip(rows, ends, strict=False):
        axes.plot([end, end], [row, row + 1], color=LIGHT["muted"], linewidth=0.7, zorder=0.9)
    axes.axvline(0, color=LIGHT["muted"], linewidth=0.7)
    for row, start, length, change in zip(rows, starts, lengths, [*changes, total.mean_train_loss], strict=True):
        axes.annotate(
            signed(change),
            (max(start, start + length), row),
            (4, 0),
            textcoords="offset points",
            va="center",
            size=8,
            bbox=GROUND,
        )
    _name_rows(axes, [*(capital(link.cause) for link in links), "Total"], narrow)
    axes.set_ylim(rows[-1] + 0.55, -0.75 if narrow else -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.14 if narrow else 0.09)
    axes.set_xlabel("difference in mean train loss")
    caption = (
        "From the first run to the last, one change at a time, in train loss averaged over the recorded "
        "updates. The bars add up to the total."
    )
    return Drawing(figure, finding(result) or "The gap, cause by cause", caption)


def finding(result: Result) -> str | None:
    """The largest term of the gap, in words.

    A link that ends at the reference lies between two real runs, and is no part of the prediction's gap.
    """
    terms = {
        link.cause: link.mean_train_loss
        for link in result.attribution.links
        if link.mean_train_loss is not None and link.end != result.reference
    }
    if not terms:
        return None
    largest = max(terms, key=lambda cause: abs(terms[cause]))
    return f"The largest term of the gap is “{largest}”: {signed(terms[largest])} in mean train loss"


def _name_rows(axes: Axes, names: list[str], narrow: bool) -> None:
    """The causes: at the left where there is room, above the bars on a phone."""
    if not narrow:
        axes.set_yticks(range(len(names)), [textwrap.fill(name, 38) for name in names], color=LIGHT["ink"])
        return
    axes.set_yticks([])
    for row, name in enumerate(names):
        axes.text(
            0,
            row - 0.27,
            textwrap.shorten(name, 50, placeholder=" …"),
            va="bottom",
            bbox=GROUND,
            transform=axes.get_yaxis_transform(),
        )
