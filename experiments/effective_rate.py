"""When does η' = η/(1 − m) decide, and which η' is best for which source? Predicted and real.

    python experiments/sweep_truth.py --scale laptop --data ../shared/data
    python experiments/sources.py --scale laptop --data ../shared/data
    python experiments/effective_rate.py --scale laptop --data ../shared/data

After Li and others 2020, eq. 3 and Fig. 1, 3 to 7, from the rows of the other two experiments: error against η' at
every momentum and with the momentum free; the best η' against the similarity of source and target (EMD of class
means; LFC and LGC, the alignment of features and of the tangent kernel with the labels); effective weight decay λ/η
at momentum 0.9.
Its own runs are for the noise scale g = η(N/B − 1): batches B of 8 and 32 of N = 128 images beside the others' 16,
without momentum. Writes table.md, momentum.svg, sources.svg and noise.svg into results/effective_rate/SCALE.
A dash is a similarity that is undefined: the EMD needs a class of five images, which 16 of ten classes need not have.
The best η' and λ/η are chosen on training images that are held out; for λ/η the runs are made here once more, since
above the edge of stability rounding decides, and other versions of XLA round otherwise.
Expected: at safe rates runs of equal η' are 0 to 2 points apart after 120 steps, runs of equal η 8 to 22.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import sources
import sweep_truth
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from options import Options
from paired_rows import Best, Case, Row, best, carry_out, cautious, pairs
from scipy.stats import kendalltau
from starts import FAR, NEAR, SIZES, Sizes, loaded, task_of
from tables import markdown, number, share

import linft

BATCHES = (8, 32)
NOISY = ("ucmerced16", "digits")
DECAYS = [{**block, "momentum": (0.9,)} for block in sweep_truth.GRID]
SIMILARITIES = {"domain_similarity": "EMD similarity", "lfc": "LFC", "lgc": "LGC"}
COLOURS = ("#0072b2", "#d55e00", "#cc79a7", "#009e73", "#e69f00")

Both = Sequence[tuple[Row, Row]]
"""Predicted and real rows."""


def cases(sizes: Sizes) -> list[Case]:
    """What is run here."""
    grid = {"learning_rate": sweep_truth.RATES, "momentum": (0.0,)}
    base = sizes.recipe()
    return [
        *(
            Case(task, f"batch{size}", grid, base.replace(batch_size=min(size, sizes.train_images)))
            for task in NOISY
            for size in BATCHES
        ),
        *(Case(task, "decays", DECAYS, base, parts=("test", "held-out")) for task in (*NEAR, *FAR)),
    ]


def main(options: Options) -> None:
    """Run what is missing, then write tables and figures."""
    directory, sizes = options.directory("effective_rate"), SIZES[options.scale]
    carry_out(cases(sizes), directory, options)
    if "report" not in options.do:
        return
    truth, from_sources = map(options.directory, ("sweep_truth", "sources"))
    frozen = {case.task: case for case in sweep_truth.cases(sizes) if case.name == "frozen"}
    undecayed = {
        budget: {task: [p for p in pairs(case, truth, step) if p[0]["values"]["weight_decay"] == 0]
                 for task, case in frozen.items()}
        for budget, step in sizes.budgets.items()
    }  # fmt: skip
    by_source = {
        (case.task, case.model): both
        for case in sources.cases(sizes)
        if case.model in sources.SOURCES and (both := pairs(case, from_sources, sizes.long))
    }
    best_of_source = {
        (case.task, case.model): found
        for case in sources.cases(sizes)
        if case.model in sources.SOURCES and (found := sources.chosen(case, from_sources, sizes.long))
    }
    batches = {
        task: {sizes.batch_size: [p for p in undecayed["long"][task] if p[0]["values"]["momentum"] == 0]}
        | {
            case.base.batch_size: pairs(case, directory, sizes.long)
            for case in cases(sizes)
            if case.task == task and case.name.startswith("batch")
        }
        for task in NOISY
    }
    decayed = {
        case.task: (pairs(case, directory, sizes.long), pairs(case, directory, sizes.long, "held-out"))
        for case in cases(sizes)
        if case.name == "decays"
    }
    parts = [
        equal_rates(undecayed, sizes),
        bests(best_of_source, options),
        decays(decayed, sizes.long),
        noise(batches, sizes),
    ]
    (directory / "table.md").write_text("\n".join(parts))
    matplotlib.rcParams.update({"font.size": 8, "svg.hashsalt": "linft", "svg.fonttype": "none"})
    for name, drawing in {
        "momentum": curves(
            {task: by(of, lambda row: f"m = {row['values']['momentum']:g}") for task, of in undecayed["long"].items()},
            effective_rate,
            "η/(1 − m)",
        ),
        "sources": curves(
            {task: {model: of for (t, model), of in by_source.items() if t == task} for task in frozen},
            effective_rate,
            "η/(1 − m)",
        ),
        "noise": curves(
            {task: {f"B = {size}": of for size, of in sorted(by_batch.items())} for task, by_batch in batches.items()},
            None,
            "noise scale η(N/B − 1)",
            sizes.train_images,
        ),
    }.items():
        drawing.savefig(directory / f"{name}.svg", metadata={"Date": None})
    print(f"wrote {directory}/table.md and its figures")


def effective_rate(row: Row) -> float:
    """η/(1 − m), rounded so that equal ones are equal."""
    return float(f"{row['effective_rate']:.6g}")


def by(both: Both, name: Callable[[Row], Any]) -> dict[Any, list[tuple[Row, Row]]]:
    """Pairs by something of their points, in order."""
    names = sorted({name(row) for row, _ in both})
    return {each: [pair for pair in both if name(pair[0]) == each] for each in names}


def apart(both: Both, same: Callable[[Row], Any], kind: int) -> list[float]:
    """|difference| of test accuracy between any two points that share something."""
    return [
        abs(a[kind]["test_accuracy"] - b[kind]["test_accuracy"])
        for of in by(both, same).values()
        for a, b in itertools.combinations(of, 2)
        if all(pair[kind]["status"] == "finished" for pair in (a, b))
    ]


def equal_rates(undecayed: dict[str, dict[str, list[tuple[Row, Row]]]], sizes: Sizes) -> str:
    """How far apart momenta are at equal η', and at equal η."""
    rows = []
    for budget, by_task in undecayed.items():
        for task, both in by_task.items():
            cells = [
                share(float(np.mean(found)) if (found := apart(of, same, kind)) else None)
                for of in (cautious(both, sizes.budgets[budget]), both)
                for kind in (1, 0)
                for same in (effective_rate, lambda row: row["values"]["learning_rate"])
            ]
            rows.append([task, budget, *cells])
    kinds = [f"equal {which}, {kind}" for kind in ("real", "predicted") for which in ("η'", "η")]
    heads = ["task", "budget", *(f"{kind}{of}" for of in (", safe", "") for kind in kinds)]
    title = "Mean difference of test accuracy between runs of different momentum, without decay: at safe rates, at all."
    return markdown(title, heads, rows)


def bests(of_source: dict[tuple[str, str], Best], options: Options) -> str:
    """The best η' of every source and task beside their similarity."""
    scores = {
        task: linft.rank(
            [loaded(model) for model in sources.SOURCES], task_of(task, options), list(SIMILARITIES), resamples=0
        )
        for task in dict.fromkeys(task for task, _ in of_source)
    }
    rows, columns = [], []
    for (task, model), found in of_source.items():
        measured = {score: scores[task].values(score).get(model) for score in SIMILARITIES}
        columns.append([*(np.nan if value is None else value for value in measured.values()), *_logs(found)])
        rows.append([
            task, model, *map(number, measured.values()),
            f"{effective_rate(found.real):g}", f"{effective_rate(found.predicted):g}", share(found.regret),
        ])  # fmt: skip
    taus = np.array([_taus(of) for of in _standing(columns)])
    for name, pair in zip(("real", "predicted"), taus.T if len(taus) else (), strict=False):
        rows.append([f"τ with the best η', {name}", "", *map(number, pair), "", "", ""])
    heads = ["task", "source", *SIMILARITIES.values(), "best η'", "predicted", "regret"]
    title = (
        "The η' of least error on held-out training images after the long budget, with regret on test images; the "
        "prediction chooses among safe rates."
    )
    return markdown(title, heads, rows)


def _logs(found: Best) -> tuple[float, float]:
    return float(np.log(effective_rate(found.real))), float(np.log(effective_rate(found.predicted)))


def _standing(columns: list[list[float]]) -> list[tuple[list[float], list[float], list[float]]]:
    """(similarity, log best η', log predicted best η') for each similarity."""
    table = np.array(columns).T.tolist() if columns else []
    return [(of, table[-2], table[-1]) for of in table[:-2]]


def _taus(of: tuple[list[float], list[float], list[float]]) -> list[float | None]:
    similarity, *rates = (np.array(each) for each in of)
    known = np.isfinite(similarity)
    if known.sum() < 2:
        return [None for _ in rates]
    found = [float(kendalltau(similarity[known], rate[known]).statistic) for rate in rates]  # pyright: ignore
    return [None if np.isnan(tau) else tau for tau in found]


def decays(by_task: Mapping[str, tuple[Both, Both]], steps: int) -> str:
    """The best effective weight decay λ/η of every task."""
    rows = []
    for task, (measured, held_out) in by_task.items():
        plain = ([pair for pair in both if pair[0]["values"]["weight_decay"] == 0] for both in (measured, held_out))
        measured_plain, held_out_plain = plain
        found, none = best(measured, steps, held_out), best(measured_plain, steps, held_out_plain)
        if found is not None and none is not None:
            effective = [row["values"]["weight_decay"] / row["values"]["learning_rate"]
                         for row in (found.real, found.predicted)]  # fmt: skip
            rows.append([
                task, *(f"{each:g}" for each in effective), share(found.real["test_accuracy"]),
                share(none.real["test_accuracy"]), share(found.regret),
            ])  # fmt: skip
    heads = ["task", "best λ/η", "predicted", "accuracy", "best without decay", "regret"]
    title = (
        "Effective weight decay λ/η of the point of least error on held-out training images after the long budget, "
        "with accuracy and regret on test images; predicted among safe rates."
    )
    return markdown(title, heads, rows)


def noise(batches: Mapping[str, Mapping[Any, Both]], sizes: Sizes) -> str:
    """Test error at every rate and batch size, with the noise scale g."""
    rows = []
    for task, by_batch in batches.items():
        for size, both in sorted(by_batch.items()):
            for predicted, real in both:
                rate = predicted["values"]["learning_rate"]
                errors = (
                    None if row["test_accuracy"] is None else 1 - row["test_accuracy"] for row in (real, predicted)
                )
                rows.append([task, size, f"{rate:g}", f"{noise_scale(predicted, size, sizes.train_images):.3g}",
                             *map(share, errors)])  # fmt: skip
    heads = ["task", "batch B", "rate η", "g = η(N/B − 1)", "error", "predicted"]
    return markdown(f"Without momentum, after {sizes.long} steps.", heads, rows)


def noise_scale(row: Row, batch_size: int, n: int) -> float:
    """g = η(N/B − 1), as it is without momentum."""
    return row["values"]["learning_rate"] * (n / batch_size - 1)


def curves(
    panels: dict[str, dict[Any, list[tuple[Row, Row]]]],
    x: Callable[[Row], float] | None,
    label: str,
    n: int = 0,
) -> Figure:
    """Least test error against x, a panel for each task; real above, predicted below. Without x the noise scale."""
    drawing = Figure(figsize=(2.2 * len(panels), 4.4), layout="constrained")
    axes: Any = drawing.subplots(2, len(panels), sharex="col", sharey="col", squeeze=False)
    for (task, lines), column in zip(panels.items(), axes.T, strict=True):
        for kind, ax in ((1, column[0]), (0, column[1])):
            for colour, (name, both) in zip(COLOURS, lines.items(), strict=False):
                at = x or (lambda row, name=name: noise_scale(row, int(name.removeprefix("B = ")), n))
                _line(ax, {each: of for each, of in by(both, at).items()}, kind, colour, str(name))
            ax.set_xscale("log")
            ax.set_title(f"{task}, {'real' if kind else 'predicted'}")
        column[0].set_ylabel("test error")
        column[1].set_ylabel("test error")
        column[1].set_xlabel(label)
    drawing.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return drawing


def _line(ax: Axes, by_x: dict[float, list[tuple[Row, Row]]], kind: int, colour: str, name: str) -> None:
    least = {x: [1 - pair[kind]["test_accuracy"] for pair in of if pair[kind]["status"] == "finished"]
             for x, of in by_x.items()}  # fmt: skip
    known = {x: min(errors) for x, errors in least.items() if errors and x > 0}
    ax.plot(list(known), list(known.values()), "o-", color=colour, markersize=3.5, linewidth=1.2, label=name)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
