"""Do sweeps by a kernel rank recipes as real training does?

    python experiments/sweep_truth.py --scale laptop --data ../shared/data

Four tasks (two of photographs, as the source's images are, and two that are far from them) × 35 points: learning
rate 0.05, 0.01, 0.005, 0.001, 0.0001 × momentum 0.95, 0.9, 0 without decay, and × momentum 0.9, 0 × weight decay 0.001,
0.01, which is a part of the grid of Li and others 2020 and a decay that is strong enough for a short run; batch norm
frozen. Then ten of these points with batch norm in training mode, which no kernel follows. Every point is really
trained and predicted, for 30 and for 120 steps of 16 of 128 images; the 35 also by the features' kernel. Rows are in
results/sweep_truth/SCALE/real, predicted and features; writes table.md and figure.svg there. Tasks may run at
once: `--tasks digits --do run`, then `--do report`.
Expected: real runs with frozen batch norm break at a few per cent of the edge of stability; below, the prediction
ranks them with τ of 0.7 and more, and its pick is mostly within 3 points of the best.
"""

import itertools
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import tyro
from matplotlib.figure import Figure
from options import Options
from paired_rows import Case, Row, agreed, below, carry_out, pairs, rows_of
from starts import FAR, NEAR, SIZES, Sizes
from tables import markdown, number, share

from linft.workflows.advise.initialization import Initialization
from linft.workflows.advise.rules import safe
from linft.workflows.sweep.result import key

RATES = (0.05, 0.01, 0.005, 0.001, 0.0001)
GRID = [
    {"learning_rate": RATES, "momentum": (0.95, 0.9, 0.0), "weight_decay": (0.0,)},
    {"learning_rate": RATES, "momentum": (0.9, 0.0), "weight_decay": (0.001, 0.01)},
]
TRAINING_MODE = {"learning_rate": RATES, "momentum": (0.9, 0.0)}
SHARES = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0, np.inf)
"""Bounds of the effective rate as a share of that of the edge of stability."""
COLOURS = {0.0: "#0072b2", 0.9: "#d55e00", 0.95: "#cc79a7"}


def cases(sizes: Sizes) -> list[Case]:
    """What is run."""
    base = sizes.recipe()
    return [
        case
        for task in (*NEAR, *FAR)
        for case in (
            Case(task, "frozen", GRID, base, by=("real", "predicted", "features")),
            Case(task, "train", TRAINING_MODE, base.replace(batch_norm="train")),
        )
    ]


def main(options: Options) -> None:
    """Run what is missing, then write the table and the figure."""
    directory, sizes = options.directory("sweep_truth"), SIZES[options.scale]
    carry_out(cases(sizes), directory, options)
    if "report" in options.do:
        tables = (agreements, broken, kernels)
        (directory / "table.md").write_text("\n".join(table(directory, sizes) for table in tables))
        figure(directory, sizes).savefig(directory / "figure.svg", metadata={"Date": None})
        print(f"wrote {directory}/table.md and {directory}/figure.svg")


def broke(predicted: Row, real: Row) -> bool:
    """Whether the real run diverged, or its train loss fell by less than half of what was predicted."""
    if real["status"] != "finished":
        return True
    return real["train_loss"] > (real["curve"]["train_loss"][0] + predicted["train_loss"]) / 2


def agreements(directory: Path, sizes: Sizes) -> str:
    """Rank correlation and regret, a row for each task, batch norm and budget."""
    rows = []
    for case in cases(sizes):
        for step in sizes.budgets.values():
            cells = [case.task, case.name, step]
            for limit in (safe(Initialization(), step), 1.0):
                both = up_to(pairs(case, directory, step), limit)
                found = agreed(both)
                cells += [
                    len(both), number(found.tau_accuracy), number(found.tau_loss),
                    share(found.accuracy_difference), share(found.regret),
                ]  # fmt: skip
            rows.append(cells)
    measures = ("points", "τ accuracy", "τ loss", "difference", "regret")
    heads = ["task", "batch norm", "steps", *(f"{m}, {where}" for where in ("safe", "stable") for m in measures)]
    title = (
        f"Points up to {' or '.join(f'{safe(Initialization(), step):.1%}' for step in sizes.budgets.values())} of the "
        "edge of stability (safe, by the number of steps), and all up to the edge (stable): rank "
        "correlation of predicted and real, mean difference of accuracy, and the real accuracy lost by taking the "
        "point predicted to be best."
    )
    return markdown(title, heads, rows)


def up_to(both: list[tuple[Row, Row]], limit: float) -> list[tuple[Row, Row]]:
    """Those up to a share of the edge of stability."""
    return [pair for pair in both if below(pair[0], limit)]


def broken(directory: Path, sizes: Sizes) -> str:
    """How runs and predictions part as the rate grows towards the edge of stability."""
    rows = []
    for kind in ("frozen", "train"):
        of_kind = [case for case in cases(sizes) if case.name == kind]
        short, long = (
            [pair for case in of_kind for pair in pairs(case, directory, step)] for step in sizes.budgets.values()
        )
        for low, high in itertools.pairwise(SHARES):
            here = [low < row["effective_rate"] / row["edge"] <= high for row, _ in long]
            at_short, at_long = (list(itertools.compress(of, here)) for of in (short, long))
            if at_long:
                rows.append([
                    kind, f"{low:.2%} to {high:.2%}" if np.isfinite(high) else f"above {low:.0%}", len(at_long),
                    sum(itertools.starmap(broke, at_short)), sum(itertools.starmap(broke, at_long)),
                    share(mean_difference(at_short)), share(mean_difference(at_long)),
                ])  # fmt: skip
    heads = ["batch norm", "share of the edge", "runs", "broke, short", "broke, long", "difference, short", "long"]
    title = (
        "All points by their effective rate as a share of the edge of stability of their start; a run broke if it "
        "diverged or its train loss fell by less than half of what was predicted; mean difference of test accuracy."
    )
    return markdown(title, heads, rows)


def kernels(directory: Path, sizes: Sizes) -> str:
    """What the features' kernel adds to the network's, a row for each task, budget and kernel."""
    rows = []
    for case in (case for case in cases(sizes) if "features" in case.by):
        for step in sizes.budgets.values():
            by_network = pairs(case, directory, step)
            of_features = {key(row["values"]): row for row in rows_of(case, "features", directory, step)}
            both = [pair for pair in by_network if key(pair[0]["values"]) in of_features]
            by_features = [(row | of_features[key(row["values"])], real) for row, real in both]
            broken = [broke(*pair) for pair in both]
            for kernel, of_kernel in (("network", both), ("features", by_features)):
                cells = [case.task, step, kernel]
                for limit in (safe(Initialization(), step), 1.0):
                    found = agreed(up_to(of_kernel, limit))
                    cells += [
                        number(found.tau_accuracy),
                        *map(share, (found.accuracy_difference, found.regret)),
                    ]
                foreseen = [row["status"] == "diverged" for row, _ in of_kernel]
                right = sum(map(operator.and_, broken, foreseen))
                rows.append([*cells, f"{right} of {sum(broken)}", sum(foreseen) - right])
    measures = ("τ accuracy", "difference", "regret")
    heads = ["task", "steps", "kernel", *(f"{m}, {where}" for where in ("safe", "stable") for m in measures)]
    title = (
        "The network's kernel, and the features' kernel along few directions with the head exact (`--by "
        "features-low-rank`): frozen batch norm, the measures as above, and how many of the runs that broke were "
        "predicted to diverge, and of the others."
    )
    return markdown(title, [*heads, "foreseen", "false alarms"], rows)


def mean_difference(both: list[tuple[Row, Row]]) -> float | None:
    """Of test accuracy, where both ended."""
    ended = [pair for pair in both if all(row["status"] == "finished" for row in pair)]
    apart = [abs(predicted["test_accuracy"] - real["test_accuracy"]) for predicted, real in ended]
    return float(np.mean(apart)) if apart else None


def figure(directory: Path, sizes: Sizes) -> Figure:
    """Real against predicted test accuracy, a panel for each task and budget; crosses are beyond what is safe."""
    matplotlib.rcParams.update({"font.size": 8, "svg.hashsalt": "linft", "svg.fonttype": "none"})
    frozen = [case for case in cases(sizes) if case.name == "frozen"]
    drawing = Figure(figsize=(2.2 * len(frozen), 4.6), layout="constrained")
    axes: Any = drawing.subplots(2, len(frozen), sharex="col", sharey="col")
    for column, case in enumerate(frozen):
        for line, (budget, step) in enumerate(sizes.budgets.items()):
            ax = axes[line, column]
            for momentum, colour in COLOURS.items():
                for marker, kind in (("o", True), ("x", False)):
                    both = list(_accuracies(pairs(case, directory, step), momentum, kind, safe(Initialization(), step)))
                    label = f"m = {momentum:g}{'' if kind else ', not safe'}"
                    ax.plot(*np.reshape(both, (-1, 2)).T, marker, color=colour, markersize=4, alpha=0.8, label=label)
            ax.axline((0.5, 0.5), slope=1, color="#999999", linewidth=0.8, zorder=0)
            ax.set_title(f"{case.task}, {budget} ({step} steps)")
            ax.set_xlabel("predicted accuracy" if line else "")
        axes[0, column].set_ylabel("real accuracy" if not column else "")
        axes[1, column].set_ylabel("real accuracy" if not column else "")
    drawing.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return drawing


def _accuracies(
    both: list[tuple[Row, Row]], momentum: float, kind: bool, limit: float
) -> Iterator[tuple[float, float]]:
    for predicted, real in both:
        ended = all(row["status"] == "finished" for row in (predicted, real))
        if ended and predicted["values"]["momentum"] == momentum and below(predicted, limit) == kind:
            yield predicted["test_accuracy"], real["test_accuracy"]


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
