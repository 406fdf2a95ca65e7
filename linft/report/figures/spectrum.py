"""The kernel's eigenvalues, and how much of what must be learned lies along the first of them."""

import numpy as np

from linft.report import reading
from linft.report.reading import Result
from linft.report.style import LIGHT, Drawing, log_scale, panels, percent_scale
from linft.report.words import percent

MOST = 0.9


def spectrum(result: Result, narrow: bool) -> Drawing | None:
    """Eigenvalues on logarithmic axes, and the cumulative alignment of the initial residual."""
    values = reading.array(result.kernel.eigenvalues)
    if not np.any(values > 0):
        return None
    index = np.arange(1, len(values) + 1)
    cumulative = np.cumsum(np.nan_to_num(reading.array(result.kernel.label_alignment)))
    both = len(cumulative) == len(values)
    figure, axes = panels(narrow, [2.3] * (2 if both else 1), columns=2 if both else 1)
    positive = values > 0
    axes[0].plot(index[positive], values[positive], "o", markersize=2.6, color=LIGHT["blue"])
    axes[0].set_title("Eigenvalues of the kernel")
    log_scale(axes[0], "y")
    title = "The eigenvalues of the kernel"
    if both:
        enough = int(np.searchsorted(cumulative, MOST)) if cumulative[-1] >= MOST else len(values) - 1
        count, share = index[enough], cumulative[enough]
        axes[1].plot(index, cumulative, color=LIGHT["vermilion"], linewidth=1.8)
        axes[1].plot(count, share, "o", markersize=5, color=LIGHT["vermilion"], clip_on=False, zorder=4)
        axes[1].set_ylim(0, 1)
        axes[1].set_title("Share of the initial residual, cumulative")
        percent_scale(axes[1].yaxis)
        title = (
            f"The first {count} eigenvectors hold {percent(float(share), 0)} of what has to be learned"
            if count > 1
            else f"The first eigenvector holds {percent(float(share), 0)} of what has to be learned"
        )
    for each in axes:
        log_scale(each, "x")
        each.set_xlabel("index of the eigenvector")
    caption = (
        "A direction is learned at a rate in proportion to its eigenvalue; the more of the residual lies to "
        "the left, the faster training goes."
    )
    return Drawing(figure, title, caption)
