"""Which source to start from, and is from scratch with a search of its own as good? Predicted and real.

    python experiments/sources.py --scale laptop --data ../shared/data

After Li and others 2020, Tables 3, 6 and 7 and Fig. 11, with small networks: one architecture pretrained on CIFAR-10,
on eight coarse classes of ImageNet, on traffic signs and on clothes, and the same from random weights, on four tasks.
From a source: learning rate 0.01, 0.005, 0.001 × momentum 0.9, 0, batch norm frozen. From scratch: learning rate 0.1,
0.05, 0.01, 0.005, 0.001 × weight decay 0, 0.01 at momentum 0.9, batch norm in training mode, which the prediction
leaves out (it has the statistics of the task's images at the random weights). Every point is really trained and
predicted, for 30 and for 120 steps of 16 of 128 images. Rows are in results/sources/SCALE/real and predicted;
writes table.md there. Tasks may run at once: `--tasks digits --do run`, then `--do report`.
Points are chosen on training images that are held out, and then measured on test images, by runs of one seed.
Expected: after 120 steps CIFAR-10 is the best source of all tasks but digits, where traffic signs are, and the best by
prediction is so on three; from scratch comes within 3 to 34 points of it.
"""

from pathlib import Path

import numpy as np
import tyro
from options import Options
from paired_rows import Best, Case, Row, best, carry_out, pairs
from scipy.stats import kendalltau
from starts import FAR, NEAR, SCRATCH, SIZES, SOURCE, Part, Sizes
from tables import markdown, number, settings, share

SOURCES = (SOURCE, "resnet14-imagenet_coarse", "resnet14-gtsrb", "resnet14-fashion")
GRID = {"learning_rate": (0.01, 0.005, 0.001), "momentum": (0.9, 0.0)}
SCRATCH_GRID = {"learning_rate": (0.1, 0.05, 0.01, 0.005, 0.001), "weight_decay": (0.0, 0.01)}
SHOWN = ("learning_rate", "momentum", "weight_decay")


def cases(sizes: Sizes) -> list[Case]:
    """What is run."""
    base, trained = sizes.recipe(), sizes.recipe(batch_norm="train")
    both: tuple[Part, ...] = ("test", "held-out")
    return [
        case
        for task in (*NEAR, *FAR)
        for case in (
            *(Case(task, name, GRID, base, name, parts=both) for name in SOURCES),
            Case(task, SCRATCH, SCRATCH_GRID, trained, SCRATCH, parts=both),
        )
    ]


def main(options: Options) -> None:
    """Run what is missing, then write the tables."""
    directory, sizes = options.directory("sources"), SIZES[options.scale]
    carry_out(cases(sizes), directory, options)
    if "report" in options.do:
        (directory / "table.md").write_text(
            "\n".join(
                [
                    *(errors(directory, sizes, b) for b in sizes.budgets),
                    momenta(directory, sizes),
                    ranks(directory, sizes),
                ]
            )
        )
        print(f"wrote {directory}/table.md")


def chosen(case: Case, directory: Path, step: int) -> Best | None:
    """The best point of a source on held-out images, as it is measured on test images."""
    measured, held_out = (pairs(case, directory, step, part) for part in case.parts)
    return best(measured, step, held_out)


def errors(directory: Path, sizes: Sizes, budget: str) -> str:
    """Test error by source of the point that is best, really and by prediction (Table 6)."""
    step, rows = sizes.budgets[budget], []
    for case in cases(sizes):
        if (found := chosen(case, directory, step)) is not None:
            real, predicted = (settings(of["values"], SHOWN) for of in (found.real, found.predicted))
            rows.append([
                case.task, case.model, share(1 - found.real["test_accuracy"]), real,
                share(1 - found.predicted["test_accuracy"]), predicted, share(found.regret),
            ])  # fmt: skip
    heads = [
        "task",
        "source",
        "error",
        "rate, momentum or decay",
        "predicted error",
        "rate, momentum or decay",
        "regret",
    ]
    title = (
        f"Test error after {step} steps of the point of every source that is best on held-out training images; the "
        "prediction chooses among safe rates."
    )
    return markdown(title, heads, rows)


def momenta(directory: Path, sizes: Sizes) -> str:
    """Least test error with and without momentum, by source (Table 3 at a fixed rate; here at the best of three)."""
    rows = []
    for case in cases(sizes):
        both = {settings(pair[0]["values"], SHOWN[:2]): pair for pair in pairs(case, directory, sizes.long)}
        if case.model == SCRATCH or not both:
            continue
        cells = []
        for rate in GRID["learning_rate"]:
            for momentum in GRID["momentum"]:
                pair = both.get(settings({"learning_rate": rate, "momentum": momentum}, SHOWN[:2]))
                accuracies = (None, None) if pair is None else _accuracies(pair)  # at the smallest scale few are run
                cells.append(" / ".join(share(None if a is None else 1 - a) for a in accuracies))
        rows.append([case.task, case.model, *cells])
    heads = ["task", "source", *(f"{rate:g}, m = {m:g}" for rate in GRID["learning_rate"] for m in GRID["momentum"])]
    return markdown(
        f"Test error at each rate with and without momentum after {sizes.long} steps: real / predicted.", heads, rows
    )


def ranks(directory: Path, sizes: Sizes) -> str:
    """How the prediction ranks the sources of every task, each at its best point."""
    rows = []
    for task in dict.fromkeys(case.task for case in cases(sizes)):
        for step in sizes.budgets.values():
            found = {c.model: chosen(c, directory, step) for c in cases(sizes) if c.task == task}
            known = {name: of for name, of in found.items() if of is not None and name != SCRATCH}
            if len(known) < 2:
                continue
            real, predicted = (
                {name: getattr(of, kind)["test_accuracy"] for name, of in known.items()}
                for kind in ("real", "predicted")
            )
            tau = kendalltau(list(real.values()), list(predicted.values())).statistic  # pyright: ignore
            pick = max(predicted, key=lambda name: predicted[name])
            scratch = found[SCRATCH]
            rows.append([
                task, step, max(real, key=lambda name: real[name]), pick, share(max(real.values()) - real[pick]),
                number(None if np.isnan(tau) else tau), share(max(real.values())),
                share(None if scratch is None else scratch.real["test_accuracy"]),
            ])  # fmt: skip
    heads = ["task", "steps", "best source", "predicted best", "lost by it", "τ of four", "accuracy", "from scratch"]
    return markdown("The sources, each at its best point, ranked by the prediction (among safe rates).", heads, rows)


def _accuracies(pair: tuple[Row, Row]) -> tuple[float | None, float | None]:
    predicted, real = pair
    return real["test_accuracy"], predicted["test_accuracy"]


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
