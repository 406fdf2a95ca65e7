"""How the kernel moved step by step, really and as predicted: direction, norm, rank, and the labels in every layer."""

from collections.abc import Callable

from matplotlib.axes import Axes

from linft.report.reading import Result, array
from linft.report.style import LIGHT, Drawing, panels, update_scale
from linft.report.words import elided, fixed, known
from linft.runtime.schema import Number
from linft.workflows.compare.drift import Drift, KernelAt

WHOLE: dict[str, Callable[[KernelAt], Number]] = {
    "Alignment with the start": lambda at: at.with_start.whole,
    "Correlation with shared labels": lambda at: at.with_labels.whole,
    "Norm, of that at the start": lambda at: at.norm_ratio,
    "Effective rank": lambda at: at.effective_rank,
}
"""What is drawn of the whole kernel."""


def drift_by_step(result: Result, narrow: bool) -> Drawing | None:
    """The kernel of the real run beside that of the predicted weights, at the steps of both."""
    real, predicted = result.kernel.drift, result.kernel.predicted_drift
    if real is None or predicted is None:
        return None
    groups = list(real.at[0].with_labels.groups)
    of_group = {f"Labels: {elided(g, 22)}": lambda at, g=g: at.with_labels.groups.get(g) for g in groups}
    drawn = WHOLE | of_group
    figure, axes = panels(narrow, [1.5] * len(drawn), columns=4)
    for panel, (title, value) in zip(axes, drawn.items(), strict=False):
        panel.set_title(title, fontsize=7.5)
        _line(panel, real, value, "Really trained", "ink")
        _line(panel, predicted, value, "Predicted, the kernel moving", "teal")
        update_scale(panel)
        panel.set_xlabel("")
    for panel in axes[len(drawn) :]:
        panel.remove()
    figure.supxlabel("updates", size=8.5, color=LIGHT["muted"])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, handlelength=1.8)
    caption = (
        "Above, the whole kernel: its cosine with the kernel at the pretrained weights, its correlation with shared "
        "labels (LGC), its norm, and exp of the entropy of its eigenvalues. Below, the correlation with shared labels "
        "of every layer group’s kernel."
    )
    return Drawing(figure, _finding(real, predicted), caption)


def _line(axes: Axes, drift: Drift, value: Callable[[KernelAt], Number], label: str, colour: str) -> None:
    steps = [at.step for at in drift.at]
    axes.plot(steps, array(map(value, drift.at)), color=LIGHT[colour], marker="o", markersize=3, label=label)


def _finding(real: Drift, predicted: Drift) -> str:
    start, *ends = (at.with_labels.whole for at in (real.at[0], real.at[-1], predicted.at[-1]))
    if not known(start) or not all(map(known, ends)):
        return "How the kernel moved, really and as predicted"
    really, told = (fixed(end, 2) for end in ends)
    return f"The kernel’s correlation with shared labels goes from {fixed(start, 2)} to {really}, predicted {told}"
