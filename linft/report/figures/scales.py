"""Axes for losses, shares and eigenvalues, with labels that are plain text."""

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from linft.report.words import number


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
