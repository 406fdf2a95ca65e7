"""New layers, rates by depth, L2-SP on part of the layers, frozen layers: predicted and real.

    python experiments/layers.py --scale laptop --data ../shared/data

After Plested, Shen and Gedeon 2021, Tables 3 to 5, on the eight layer groups of a small ResNet (stem, six blocks,
head): four tasks × the last 1, 2 or 3 groups at new random weights × three learning rates; lower rates for the lowest
groups; L2-SP on all pretrained groups or on the lowest three; frozen groups and a rate of its own for the head. Where
the initial weights are the same one kernel serves all of these, reweighted group by group; each number of new groups
has a kernel of its own. Every point is really trained, with batch norm in training mode, and predicted, from the
statistics of the task's images where a norm is new; for 30 and for 120 steps of 16 of 128 images at momentum 0.9.
Points are chosen on training images that are held out, and then measured on test images, by runs of one seed. Rows are
in results/layers/SCALE/real and predicted, those on held-out images beside them; writes table.md there. Tasks may
run at once: `--tasks digits --do run`, then `--do report`.

Expected (results/layers/laptop/table.md): after 30 steps one new group is better than two or three on every task, by
7 to 33 points; after 120 steps by 3 to 25 on three tasks, and on hymenoptera all three are within a point. Lower rates
for the lowest groups, L2-SP on all groups or the lowest three, and frozen low groups are within 5 points of one rate
at the same number of new groups. The prediction, which has batch norm frozen, ranks all points with τ = 0.24 to 0.82
and those of a safe rate with 0.35 to 1.00; its accuracies are off by 2 to 10 points after 30 steps and 5 to 25 after
120. What it picks as the best point of a safe rate is 0 to 23 points below the best.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from options import Options
from paired_rows import Case, agreed, best, carry_out, cautious, pairs
from starts import FAR, NEAR, SIZES, Sizes
from tables import markdown, number, settings, share

from linft.workflows.sweep.grid import Values

RATES = (0.01, 0.005, 0.001)
GRID = [
    {"reinit_groups": (1, 2, 3), "learning_rate": RATES},
    {"reinit_groups": (1, 2), "learning_rate": (0.01,), "low_rate": (0.002,), "low_groups": (3, 5)},
    {"reinit_groups": (1, 2), "learning_rate": (0.01,), "l2sp": (0.01,), "weight_decay": (0.01,),
     "l2sp_lowest": (None, 3)},
    {"reinit_groups": (1,), "learning_rate": (0.01,), "frozen_lowest": (3, 5)},
    {"reinit_groups": (1,), "learning_rate": (0.001,), "head_rate": (0.01,)},
]  # fmt: skip


@dataclass(frozen=True)
class Part:
    """Points that are compared with one another."""

    name: str
    holds: Callable[[Values], bool]
    shown: Sequence[str]
    """Settings that the table names."""


def plain(values: Values) -> bool:
    """Whether one rate holds for all layers, without decay."""
    return set(values) == {"reinit_groups", "learning_rate"}


PARTS = (
    *(
        Part(f"{k} new, one rate (Table 3)", lambda v, k=k: plain(v) and v["reinit_groups"] == k, ["learning_rate"])
        for k in (1, 2, 3)
    ),
    *(
        Part(
            f"{k} new, lower rates below (Table 4)",
            lambda v, k=k: "low_rate" in v and v["reinit_groups"] == k,
            ["learning_rate", "low_rate", "low_groups"],
        )
        for k in (1, 2)
    ),
    *(
        Part(
            f"{k} new, L2-SP (Table 5)",
            lambda v, k=k: "l2sp" in v and v["reinit_groups"] == k,
            ["learning_rate", "l2sp_lowest"],
        )
        for k in (1, 2)
    ),
    Part("frozen below", lambda v: "frozen_lowest" in v, ["learning_rate", "frozen_lowest"]),
    Part("all", lambda v: True, ["reinit_groups", "learning_rate", "low_rate", "low_groups", "l2sp_lowest"]),
)


def cases(sizes: Sizes) -> list[Case]:
    """What is run."""
    base = sizes.recipe(batch_norm="train")
    return [Case(task, "layers", GRID, base, parts=("test", "held-out")) for task in (*NEAR, *FAR)]


def main(options: Options) -> None:
    """Run what is missing, then write the table."""
    directory, sizes = options.directory("layers"), SIZES[options.scale]
    carry_out(cases(sizes), directory, options)
    if "report" in options.do:
        tables = [bests(directory, sizes, budget) for budget in sizes.budgets]
        (directory / "table.md").write_text("\n".join([agreements(directory, sizes), *tables]))
        print(f"wrote {directory}/table.md")


def agreements(directory: Path, sizes: Sizes) -> str:
    """Rank correlation over all points, and over those of a safe rate."""
    rows = []
    for case in cases(sizes):
        for step in sizes.budgets.values():
            both = pairs(case, directory, step)
            found, safely = (agreed(of) for of in (both, cautious(both, step)))
            rows.append([
                case.task, step, f"{found.points} of {len(both)}", number(found.tau_accuracy),
                number(found.tau_loss), share(found.accuracy_difference), safely.points,
                number(safely.tau_accuracy), number(safely.tau_loss),
                share(safely.accuracy_difference),
            ])  # fmt: skip
    measures = ("τ accuracy", "τ loss", "difference")
    heads = ["task", "steps", "points", *measures, "safe points", *measures]
    return markdown("Predicted and real, over all points, and over those whose rate is safe.", heads, rows)


def bests(directory: Path, sizes: Sizes, budget: str) -> str:
    """The best settings of every part, real and predicted."""
    step, rows = sizes.budgets[budget], []
    for case in cases(sizes):
        both, held_out = (pairs(case, directory, step, of) for of in case.parts)
        for part in PARTS:
            measured, judged = ([p for p in of if part.holds(p[0]["values"])] for of in (both, held_out))
            found = best(measured, step, judged)
            if found is not None:
                real, predicted = (settings(of["values"], part.shown) for of in (found.real, found.predicted))
                rows.append([
                    case.task, part.name, real, share(found.real["test_accuracy"]),
                    predicted, share(found.predicted["test_accuracy"]), share(found.taken["test_accuracy"]),
                ])  # fmt: skip
    heads = ["task", "points", "best", "accuracy", "predicted best", "as predicted", "real"]
    title = (
        f"After {step} steps: accuracy on test images of the points that are best on held-out training images. "
        "Settings are, as far as they vary: new groups, learning rate, rate of the lowest groups, how many these are, "
        "how many of the lowest L2-SP holds or are frozen. The point predicted to be best is one of a safe rate, if "
        "there is one."
    )
    return markdown(title, heads, rows)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
