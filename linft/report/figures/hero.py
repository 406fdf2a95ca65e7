"""One wide picture: what was predicted against what happened."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from linft.core.trajectory_json import SavedTrajectory
from linft.report import reading
from linft.report.figures.curves import cut, draw_all, draw_bands
from linft.report.reading import Result, RunTrajectories
from linft.report.runs import CURVES, REAL
from linft.report.style import LIGHT, Drawing, panels, percent_scale, update_scale
from linft.report.words import fixed, percent


def hero(result: Result, narrow: bool) -> Drawing | None:
    """Train loss and test accuracy, real and predicted, with the gap between them shaded."""
    real, predicted = result.reference, reading.prediction(result)
    if predicted is None:
        return None
    runs = {name: reading.curves(result)[name] for name in (real, predicted)}
    figure, (loss, accuracy) = panels(narrow, [2.3 if narrow else 2.9] * 2, columns=2)
    for axes, key, title, text in (
        (loss, "train_loss", "Train loss", fixed),
        (accuracy, "test_accuracy", "Test accuracy", percent),
    ):
        axes.set_title(title)
        draw_all(axes, runs, key)
        cut(axes, runs, key, real)
        if result.seeds is None:
            _shade(axes, runs[real], runs[predicted], key)
        else:
            draw_bands(axes, result, key)
        _name_ends(axes, runs, key, text)
        update_scale(axes)
    percent_scale(accuracy.yaxis)
    ends = {
        name: "divergence" if run.diverged_at is not None else percent(reading.last(run, "test_accuracy"))
        for name, run in runs.items()
    }
    title = f"Final test accuracy, {CURVES[predicted].label[0].lower()}{CURVES[predicted].label[1:]}: {ends[predicted]}"
    title += f"; really trained: {ends[real]}"
    shaded = "the gap between them is shaded" if result.seeds is None else "shaded, what several seeds span"
    caption = f"The real run in ink, its prediction dashed; {shaded}."
    return Drawing(figure, title, caption)


def _shade(axes: Axes, real: SavedTrajectory, predicted: SavedTrajectory, key: str) -> None:
    steps, values = reading.series(real, "steps"), reading.series(real, key)
    other_steps, other = reading.series(predicted, "steps"), reading.series(predicted, key)
    both = steps[steps <= other_steps[-1]]
    axes.fill_between(
        both,
        values[: len(both)],
        np.interp(both, other_steps, other),
        color=LIGHT["vermilion"],
        alpha=0.14,
        linewidth=0,
    )


def _name_ends(axes: Axes, runs: RunTrajectories, key: str, text: Callable[[Any], str]) -> None:
    """Each curve named at its end, the higher one above and the lower one below."""
    low, high = axes.get_ylim()
    ends = {}
    for name, run in runs.items():
        height = np.nan_to_num(reading.series(run, key)[-1], nan=high)
        ends[name] = (reading.series(run, "steps")[-1], float(np.clip(height, low, high)))
    for name, above in zip(sorted(ends, key=lambda name: ends[name][1]), (False, True), strict=True):
        word = "Real" if name in REAL else "Predicted"
        value = "diverged" if runs[name].diverged_at is not None else text(reading.last(runs[name], key))
        axes.annotate(
            f"{word}\n{value}", ends[name], (7, 2 if above else -2), textcoords="offset points",
            va="bottom" if above else "top", color=LIGHT[CURVES[name].colour], weight="bold", size=8.5,
            annotation_clip=False, linespacing=1.25,
        )  # fmt: skip
