"""Kernels on images sorted by class: where a model's gradients and features are alike."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from linft.report.style import LIGHT, NARROW, WIDE, Drawing
from linft.report.words import elided, fixed
from linft.workflows.rank.kernel_pictures import Picture

MOST = 3.0  # standard deviations at which the colour is full


def kernels(pictures: Sequence[Picture], narrow: bool) -> Drawing | None:
    """Θ and Θ_F of every picture: a column a picture, or on a phone a row."""
    if not pictures:
        return None
    count, side = len(pictures), (NARROW - 0.2) / 2 if narrow else min(1.6, WIDE / len(pictures))
    rows, columns = (count, 2) if narrow else (2, count)
    figure = Figure(figsize=(columns * side, rows * (side + 0.3)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for i, each in enumerate(pictures):
        pair = grid[i] if narrow else grid[:, i]
        name = each.model if each.epoch is None else f"epoch {each.epoch}"
        for axes, kernel, symbol, value in zip(
            pair, (each.theta_f, each.theta), ("Θ_F", "Θ"), (each.lfc, each.lgc), strict=True
        ):
            _show(axes, each, kernel)
            axes.set_title(f"{elided(name, 22)}\n{symbol}  {fixed(value, 2)}", size=7, weight="normal", pad=3)
    over = pictures[0].epoch is not None
    title = f"{pictures[0].model} as it is fine-tuned" if over else "What the first and the last models find alike"
    caption = (
        "Inner products of features (Θ_F) and of the last convolution’s gradients (Θ) for every pair of sampled "
        "images, sorted by class: red above the mean, blue below. Squares along the diagonal are classes. The "
        "number is the correlation with shared labels: LFC and LGC."
    )
    return Drawing(figure, title, caption)


def _show(axes: Axes, picture: Picture, kernel: object) -> None:
    axes.imshow(kernel, cmap="RdBu_r", vmin=-MOST, vmax=MOST, interpolation="nearest")  # pyright: ignore
    side = len(picture.theta)
    ends = [border * side - 0.5 for border in picture.borders[1:]]
    if len(ends) < 20:
        for axis in (axes.axhline, axes.axvline):
            for end in ends:
                axis(end, color=LIGHT["paper"], linewidth=0.4)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
