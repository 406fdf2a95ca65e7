"""The figures of a report: each a function (result, narrow) -> Drawing, or None with nothing to show.

A new figure is a new function and a row of FIGURES. `narrow` asks for the layout of a phone.
"""

from collections.abc import Callable

from linft.report.figures.attribution import attribution
from linft.report.figures.curves import curves
from linft.report.figures.drift_by_step import drift_by_step
from linft.report.figures.groups import distance, drift, group_share
from linft.report.figures.hero import hero
from linft.report.figures.spectrum import spectrum
from linft.report.reading import Result
from linft.report.style import Drawing

FIGURES: dict[str, Callable[[Result, bool], Drawing | None]] = {
    "hero": hero,
    "curves": curves,
    "attribution": attribution,
    "spectrum": spectrum,
    "group_share": group_share,
    "distance": distance,
    "drift": drift,
    "drift_by_step": drift_by_step,
}
