"""Every run's loss and accuracy over the updates, the real run in ink and the predictions over it."""

import numpy as np
from matplotlib.axes import Axes

from linft.report import reading
from linft.report.reading import Result, RunTrajectories
from linft.report.runs import CURVES
from linft.report.style import LIGHT, Drawing, log_scale, panels, percent_scale, update_scale
from linft.report.words import percent


def curves(result: Result, narrow: bool) -> Drawing:
    """Train loss on a logarithmic and a linear axis, test loss, and both accuracies."""
    runs = reading.curves(result)
    figure, (log_train, train, test, accuracy) = panels(narrow, [2.35] * 4, columns=2)
    for axes, key, title in (
        (log_train, "train_loss", "Train loss, logarithmic"),
        (train, "train_loss", "Train loss"),
        (test, "test_loss", "Test loss"),
    ):
        axes.set_title(title)
        draw_bands(axes, result, key)
        draw_all(axes, runs, key)
        cut(axes, runs, key, result.reference)
        if key == "train_loss":
            end_of_trust(axes, runs)
    log_scale(log_train, "y")
    accuracy.set_title("Accuracy: test strong, train faint")
    draw_all(accuracy, runs, "train_accuracy", faint=True)
    draw_bands(accuracy, result, "test_accuracy")
    draw_all(accuracy, runs, "test_accuracy")
    percent_scale(accuracy.yaxis)
    for axes in (log_train, train, test, accuracy):
        update_scale(axes)
    handles = [line for line in log_train.get_lines() if not str(line.get_label()).startswith("_")]
    place = "outside upper left"
    figure.legend(handles=handles, loc=place, ncols=1 if narrow else min(3, len(handles)))
    figure.set_figheight(figure.get_figheight() + 0.17 * -(-len(handles) // (1 if narrow else 3)))
    caption = "Losses and accuracies on the whole train and test sets after so many updates."
    if result.seeds is not None:
        caption += " Shaded, what several seeds span."
    if any(run.diverged_at is not None for run in runs.values()):
        caption += " A cross ends a run that diverged."
    if within := {run.certificate.within for run in runs.values() if run.certificate is not None}:
        caption += (
            f" A dotted line ends what a prediction says of itself that it holds to within {percent(max(within))}."
        )
    return Drawing(figure, _finding(result), caption)


def draw_bands(axes: Axes, result: Result, key: str) -> None:
    """What the seeds of the real run and of its predictions span, in the colour of their lines."""
    for name, band in reading.bands(result).items():
        span = getattr(band, key)
        colour = LIGHT[CURVES[name].colour]
        axes.fill_between(band.steps, span.lowest, span.highest, color=colour, alpha=0.2, linewidth=0, zorder=1)


def draw_all(axes: Axes, runs: RunTrajectories, key: str, faint: bool = False) -> None:
    """One line a run: the real ones below, markers staggered so that curves that coincide stay visible."""
    for place, (name, run) in enumerate(runs.items()):
        kind = CURVES[name]
        values = reading.series(run, key)
        every = max(1, len(values) // 4)
        axes.plot(
            reading.series(run, "steps"),
            values,
            color=LIGHT[kind.colour],
            linewidth=kind.width * (0.7 if faint else 1),
            linestyle=(0, kind.dash) if kind.dash else "solid",
            alpha=kind.alpha * (0.35 if faint else 1),
            marker="" if faint else kind.marker,
            markersize=4.2,
            markerfacecolor=LIGHT["paper"],
            markeredgewidth=1.1,
            markevery=(place % every, every),
            label="_" if faint else kind.label,
            zorder=2 + place / 10,
        )


def end_of_trust(axes: Axes, runs: RunTrajectories) -> None:
    """A line where a prediction no longer says of itself that it holds."""
    for name, run in runs.items():
        if run.certificate is not None and run.certificate.horizon < run.steps[-1]:
            axes.axvline(
                run.certificate.horizon, color=LIGHT[CURVES[name].colour], linestyle=":", linewidth=1, label="_"
            )


def cut(axes: Axes, runs: RunTrajectories, key: str, reference: str) -> None:
    """Keep a run that blows up from flattening all others, and cross the end of one that diverged."""
    curves = {name: reading.series(run, key) for name, run in runs.items()}
    highest = {name: np.nanmax(values, initial=0.0) for name, values in curves.items()}
    top = max(highest.values())
    calm = highest[reference] if runs[reference].diverged_at is None else 0.0
    if top > 2 * calm > 0:
        top = 2 * calm
        lowest = min(np.min(values[values > 0], initial=top) for values in curves.values())
        axes.set_ylim(0.9 * lowest, top)
    for name, run in runs.items():
        if run.diverged_at is not None:
            end = np.nan_to_num(curves[name][-1:], nan=top)
            axes.plot(
                reading.series(run, "steps")[-1:],
                np.minimum(end, top),
                "X",
                markersize=7,
                clip_on=False,
                color=LIGHT[CURVES[name].colour],
                markeredgecolor=LIGHT["paper"],
                zorder=5,
                label="_",
            )


def _finding(result: Result) -> str:
    errors, name = reading.errors(result), reading.prediction(result)
    if name not in errors:
        return "The curves of every run"
    finding = f"{CURVES[name].label}, the train loss is off by {percent(errors[name])} on average"
    closest = reading.closest(errors)
    if closest != name:
        finding += f"; “{CURVES[closest].label}” comes closest, {percent(errors[closest])}"
    return finding
