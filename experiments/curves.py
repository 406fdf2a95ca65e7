"""A figure of train-loss curves, one panel a task: the real one, and predictions of it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure
from tables import share


class Line(NamedTuple):
    """How a curve is drawn."""

    label: str
    style: Mapping[str, Any]


REAL = Line("really trained", {"color": "#14171c", "linewidth": 2.2})
FIRST = {"color": "#c25400", "linestyle": "--"}
LAST = {"color": "#0b7a8a", "linestyle": (0, (6, 2))}


class Panel(NamedTuple):
    """The curves of one task, as many as there are lines, and the errors of the first and of the last prediction."""

    task: str
    steps: Sequence[int]
    curves: Sequence[Sequence[float]]
    errors: tuple[float, float]


def figure(salt: str, lines: Sequence[Line], panels: Sequence[Panel]) -> Figure:
    """Three panels in a row.

    Args:
      salt: of the identifiers in the file, which are the same at every call then.
    """
    matplotlib.rcParams["svg.hashsalt"] = salt
    drawing = Figure(figsize=(9, 2.3 * -(-len(panels) // 3)), layout="constrained")
    every = drawing.subplots(-(-len(panels) // 3), min(3, len(panels)), squeeze=False)
    for panel, axes in zip(panels, every.flat, strict=False):
        for line, curve in zip(lines, panel.curves, strict=True):
            axes.plot(panel.steps[: len(curve)], curve, label=line.label, **line.style)
        axes.set_title(f"{panel.task}: {share(panel.errors[0])} → {share(panel.errors[1])}", fontsize="medium")
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=0)
    for axes in every.flat[len(panels) :]:
        axes.set_axis_off()
    for axes in every[-1]:
        axes.set_xlabel("updates")
    for axes in every[:, 0]:
        axes.set_ylabel("train loss")
    drawing.legend(*every[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(lines))
    return drawing
