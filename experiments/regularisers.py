"""L2 against L2-SP on near and far tasks, predicted and real.

    python experiments/regularisers.py --scale laptop --data ../shared/data

Appendix C of Li and others 2020: learning rate 0.02, 0.01, 0.005, 0.001, 0.0001 × strength λ1 0.1, 0.01, 0.001,
0.0001, for L2-SP on the pretrained layers (with λ2 = 0.01 on the new head) and for L2 (λ2 = λ1); what its Table 4
compares is the average class error of the best of either. All 40 points are predicted; those of three rates (0.01,
0.005, 0.001) are really trained too; for 30 and for 120 steps of 16 of 128 images at momentum 0.9. Rows are in
results/regularisers/SCALE/real and predicted; writes table.md there. Tasks may run at once: `--tasks digits --do run`,
then `--do report`.
Points are chosen on training images that are held out, and then measured on test images, by runs of one seed.
Expected: either method's best is within 9 points of the other's, on near and far tasks, but for 21 on digits after 120
steps.
"""

from dataclasses import replace
from pathlib import Path

import tyro
from options import Options
from paired_rows import Case, Row, agreed, best, carry_out, pairs
from starts import FAR, NEAR, SIZES, Part, Sizes
from tables import markdown, number, settings, share

from linft.workflows.sweep.grid import l2sp

RATES = (0.01, 0.005, 0.001)
"""Of the real runs."""
METHODS = ("L2", "L2-SP")


def cases(sizes: Sizes) -> list[Case]:
    """What is predicted."""
    both: tuple[Part, ...] = ("test", "held-out")
    return [Case(task, "regularisers", "l2sp", sizes.recipe(), by=("predicted",), parts=both) for task in (*NEAR, *FAR)]


def trained(case: Case) -> Case:
    """The part of a case that is really run."""
    return replace(case, grid=[{**block, "learning_rate": RATES} for block in l2sp(0)], by=("real",))


def main(options: Options) -> None:
    """Run what is missing, then write the table."""
    directory, sizes = options.directory("regularisers"), SIZES[options.scale]
    predicted = cases(sizes)
    carry_out([*predicted, *map(trained, predicted)], directory, options)
    if "report" in options.do:
        (directory / "table.md").write_text(table(directory, sizes))
        print(f"wrote {directory}/table.md")


def of_method(row: Row, method: str) -> bool:
    """Whether a point is one of L2-SP or of L2."""
    return (row["values"]["l2sp"] > 0) == (method == "L2-SP")


def table(directory: Path, sizes: Sizes) -> str:
    """Least average class error by either method, real and predicted."""
    rows = []
    for case in cases(sizes):
        for step in sizes.budgets.values():
            both = [pairs(case, directory, step, part) for part in case.parts]
            for method in METHODS:
                of, held_out = ([pair for pair in part if of_method(pair[0], method)] for part in both)
                found = best(of, step, held_out)
                if found is None:
                    continue
                tau = agreed(of).tau_accuracy
                names = ("learning_rate", "l2sp" if method == "L2-SP" else "weight_decay")
                real, predicted = (settings(of["values"], names) for of in (found.real, found.predicted))
                rows.append([
                    case.task, step, method, share(1 - found.real["test_accuracy"]), real,
                    share(1 - found.predicted["test_accuracy"]), predicted, share(found.regret), number(tau),
                ])  # fmt: skip
    heads = ["task", "steps", "method", "error", "rate, λ1", "predicted error", "rate, λ1", "regret", "τ"]
    title = (
        "Average class error on test images of the point of each method that was really run and is best on held-out "
        "training images; predicted among safe rates."
    )
    return markdown(title, heads, rows)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
