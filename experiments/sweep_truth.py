"""Do sweeps by a kernel rank recipes as real training does?

    python experiments/sweep_truth.py --scale laptop --data ../shared/data

Four tasks (two of photographs, as the source's images are, and two that are far from them) × 35 points: learning
rate 0.05, 0.01, 0.005, 0.001, 0.0001 × momentum 0.95, 0.9, 0 without decay, and × momentum 0.9, 0 × weight decay 0.001,
0.01, which is a part of the grid of Li and others 2020 and a decay that is strong enough for a short run; batch norm
frozen. Then ten of these points with batch norm in training mode, which no kernel follows. Every point is really
trained and predicted, for 30 and for 120 steps of 16 of 128 images. Rows are in experiments/sweep_truth/SCALE/real
and predicted; writes table.md and figure.svg there. Tasks may run at once: `--tasks digits`, then `--do report`.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import tyro
from beside import FAR, NEAR, SIZES, Case, Do, Scale, Sizes, carry_out, chosen, number, pairs, share
from matplotlib.figure import Figure

from linft.sweeps.agreement import agreement
from linft.sweeps.result import Row

RATES = (0.05, 0.01, 0.005, 0.001, 0.0001)
GRID = [
    {"learning_rate": RATES, "momentum": (0.95, 0.9, 0.0), "weight_decay": (0.0,)},
    {"learning_rate": RATES, "momentum": (0.9, 0.0), "weight_decay": (0.001, 0.01)},
]
TRAINING_MODE = {"learning_rate": RATES, "momentum": (0.9, 0.0)}
SHARES = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, np.inf)
"""Bounds of the effective rate over that of the edge of stability."""
COLOURS = {0.0: "#0072b2", 0.9: "#d55e00", 0.95: "#cc79a7"}


def cases(sizes: Sizes) -> list[Case]:
    """What is run."""
    base = sizes.recipe()
    return [
        case
        for task in (*NEAR, *FAR)
        for case in (
            Case(task, "frozen", GRID, base),
            Case(task, "train", TRAINING_MODE, base.replace(batch_norm="train")),
        )
    ]


def main(
    scale: Scale = "smoke",
    data: Path = Path("../shared/data"),
    output: Path = Path("experiments/sweep_truth"),
    tasks: tuple[str, ...] = (),
    do: tuple[Do, ...] = ("real", "predicted", "report"),
) -> None:
    """Run what is missing, then write the table and the figure."""
    directory, sizes = output / scale, SIZES[scale]
    carry_out(chosen(cases(sizes), tasks), directory, data, sizes, do)
    if "report" in do:
        (directory / "table.md").write_text(agreements(directory, sizes) + "\n" + broken(directory, sizes))
        figure(directory, sizes).savefig(directory / "figure.svg", metadata={"Date": None})
        print(f"wrote {directory}/table.md and {directory}/figure.svg")


def stable(row: Row) -> bool:
    """Whether a predicted row's rate is below the edge of stability."""
    return row["effective_rate"] < row["edge"]


def agreements(directory: Path, sizes: Sizes) -> str:
    """Rank correlation and regret over the stable points, a row for each task, batch norm and budget."""
    lines = [
        "Points predicted to be stable: rank correlation of predicted and real, mean difference of accuracy, and the "
        "real accuracy lost by taking the point predicted to be best.\n",
        "| task | batch norm | steps | points | τ accuracy | τ loss | difference | regret | best real | diverged |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in cases(sizes):
        for step in sizes.budgets.values():
            both = [pair for pair in pairs(case, directory, step) if stable(pair[0])]
            found = agreement([row for row, _ in both], [row for _, row in both])
            best = max((row["test_accuracy"] for _, row in both if row["status"] == "finished"), default=np.nan)
            cells = [
                case.task, case.name, step, f"{found['points']} of {len(both)}", number(found["tau_accuracy"]),
                number(found["tau_loss"]), share(found["accuracy_difference"]), share(found["regret"]), share(best),
                found["diverged"][2],
            ]  # fmt: skip
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def broken(directory: Path, sizes: Sizes) -> str:
    """How runs and predictions part as the rate comes to the edge of stability."""
    lines = [
        "All points by their effective rate over the one at which the start meets the edge of stability.\n",
        "| batch norm | rate over the edge | runs | really diverged | difference of accuracy, short | long |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kind in ("frozen", "train"):
        of_kind = [case for case in cases(sizes) if case.name == kind]
        short, long = (
            [pair for case in of_kind for pair in pairs(case, directory, step)] for step in sizes.budgets.values()
        )
        for low, high in itertools.pairwise(SHARES):
            here = [low <= row["effective_rate"] / row["edge"] < high for row, _ in long]
            if not any(here):
                continue
            diverged = sum(real["status"] == "diverged" for (_, real), inside in zip(long, here, strict=True) if inside)
            apart = [
                mean_difference([pair for pair, inside in zip(of, here, strict=True) if inside]) for of in (short, long)
            ]
            between = f"{low:g} to {high:g}" if np.isfinite(high) else f"above {low:g}"
            lines.append(f"| {kind} | {between} | {sum(here)} | {diverged} | {share(apart[0])} | {share(apart[1])} |")
    return "\n".join(lines) + "\n"


def mean_difference(both: list[tuple[Row, Row]]) -> float | None:
    """Of test accuracy, where both ended."""
    ended = [pair for pair in both if all(row["status"] == "finished" for row in pair)]
    apart = [abs(predicted["test_accuracy"] - real["test_accuracy"]) for predicted, real in ended]
    return float(np.mean(apart)) if apart else None


def figure(directory: Path, sizes: Sizes) -> Figure:
    """Real against predicted test accuracy, a panel for each task and budget; crosses are beyond the edge."""
    matplotlib.rcParams.update({"font.size": 8, "svg.hashsalt": "linft", "svg.fonttype": "none"})
    frozen = [case for case in cases(sizes) if case.name == "frozen"]
    drawing = Figure(figsize=(2.2 * len(frozen), 4.6), layout="constrained")
    axes: Any = drawing.subplots(2, len(frozen), sharex="col", sharey="col")
    for column, case in enumerate(frozen):
        for line, (budget, step) in enumerate(sizes.budgets.items()):
            ax = axes[line, column]
            for momentum, colour in COLOURS.items():
                for marker, kind in (("o", True), ("x", False)):
                    both = list(_accuracies(pairs(case, directory, step), momentum, kind))
                    label = f"m = {momentum:g}{'' if kind else ', beyond the edge'}"
                    ax.plot(*np.reshape(both, (-1, 2)).T, marker, color=colour, markersize=4, alpha=0.8, label=label)
            ax.axline((0.5, 0.5), slope=1, color="#999999", linewidth=0.8, zorder=0)
            ax.set_title(f"{case.task}, {budget} ({step} steps)")
            ax.set_xlabel("predicted accuracy" if line else "")
        axes[0, column].set_ylabel("real accuracy" if not column else "")
        axes[1, column].set_ylabel("real accuracy" if not column else "")
    drawing.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return drawing


def _accuracies(both: list[tuple[Row, Row]], momentum: float, kind: bool) -> Iterator[tuple[float, float]]:
    for predicted, real in both:
        ended = all(row["status"] == "finished" for row in (predicted, real))
        if ended and predicted["values"]["momentum"] == momentum and stable(predicted) == kind:
            yield predicted["test_accuracy"], real["test_accuracy"]


if __name__ == "__main__":
    tyro.cli(main)
