"""How figures look and how they become SVG and PNG: one palette, one canvas, plain axes, no global state."""

import io
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from linft.report.words import number

PALETTE = {
    "paper": ("#ffffff", "#16181b"),
    "ink": ("#1b1e23", "#eceae4"),
    "muted": ("#5d636b", "#a4a9b0"),
    "rule": ("#d8dadd", "#3a3e44"),
    "grey": ("#8d939b", "#81878f"),
    "blue": ("#0072b2", "#4aa8e0"),
    "vermilion": ("#d55e00", "#ff8b42"),
    "green": ("#00865f", "#35c99f"),
    "purple": ("#a8518a", "#e09ac6"),
    "amber": ("#b98900", "#e8b93c"),
    "teal": ("#00788c", "#4cc7dc"),
    "brown": ("#7d4a26", "#c89468"),
    "red": ("#a3123a", "#f0708f"),
}
"""Name -> colour on light and on dark ground. Told apart by the colour-blind: after Okabe and Ito."""

LIGHT = {name: light for name, (light, _) in PALETTE.items()}
GROUND = {"facecolor": LIGHT["paper"], "edgecolor": "none", "pad": 0.7}
"""Behind a text that lines may cross."""

WIDE, NARROW = 7.5, 3.4  # inches: a column of text, and a phone
DPI = 200

_SETTINGS = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a layer may be called a$b$
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.color": LIGHT["ink"],
    "figure.facecolor": LIGHT["paper"],
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.04,
    "figure.constrained_layout.hspace": 0.05,
    "figure.constrained_layout.wspace": 0.05,
    "savefig.facecolor": "auto",
    "axes.facecolor": "none",
    "axes.edgecolor": LIGHT["muted"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.linewidth": 0.7,
    "axes.labelsize": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.xmargin": 0.02,
    "grid.color": LIGHT["rule"],
    "grid.linewidth": 0.5,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 3.2,
    "legend.borderpad": 0.2,
    "legend.columnspacing": 1.4,
}


@dataclass(frozen=True)
class Drawing:
    """A figure and its words."""

    figure: Figure
    title: str
    """What is found."""
    caption: str
    """What is drawn and how to read it."""


@contextmanager
def settings() -> Iterator[None]:
    """Matplotlib’s own defaults and the look of the report, whatever the user’s configuration; undone on leaving."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)  # pyright: ignore
        yield


def panels(narrow: bool, heights: list[float], columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of panels of these heights in inches, side by side in columns, or stacked on a phone."""
    if narrow:
        rows, columns = heights, 1
    else:
        rows = [max(heights[i : i + columns]) for i in range(0, len(heights), columns)]
    figure = Figure(figsize=(NARROW if narrow else WIDE, sum(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, height_ratios=rows, squeeze=False)
    return figure, list(axes.flat)


def log_scale(axes: Axes, which: str) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5 where it is short, at powers of ten where it is long."""
    getattr(axes, f"set_{which}scale")("log")
    axis: Axis = getattr(axes, f"{which}axis")
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(float(value))))
    axis.set_minor_formatter(NullFormatter())


def percent_scale(axis: Axis) -> None:
    """An axis of shares, in per cent."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))


def update_scale(axes: Axes) -> None:
    """The axis of training steps."""
    axes.set_xlabel("updates")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def standalone(drawing: Drawing) -> None:
    """Put the title into the figure itself, for a file that is looked at without its caption."""
    figure = drawing.figure
    title = textwrap.fill(drawing.title, int(11.6 * figure.get_figwidth()))
    figure.set_figheight(figure.get_figheight() + 0.17 + 0.17 * (title.count("\n") + 1))
    font: Any = {"size": 10, "weight": "bold"}
    if not figure.legends:
        figure.suptitle(title, x=0.008, ha="left", **font)
    for legend in figure.legends:  # matplotlib would draw the two over each other
        legend.set_title(title, font)
        legend.set_alignment("left")


def to_svg(figure: Figure, salt: str) -> str:
    """The figure as SVG: text as text, no date, and identifiers that depend on the content alone."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return buffer.getvalue()


def to_png(figure: Figure) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def inline(svg: str, name: str, label: str) -> str:
    """The SVG as part of a page: identifiers of its own, and colours that follow the page's light or dark."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href=", "href=")
    svg = re.sub(r'(\bid="|\bhref="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, light in LIGHT.items():
        svg = svg.replace(light, f"var(--{colour})")
    quoted = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{quoted}" ', 1)
