"""Every curve of some runs as one table."""

import csv
import io

from linft.report.reading import RunTrajectories

_COLUMNS = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")


def table(runs: RunTrajectories) -> str:
    """A row for each run and recorded step, as CSV; what is not finite is empty."""
    groups = list(dict.fromkeys(group for run in runs.values() for group in run.distance))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "step", *_COLUMNS, *(f"distance_{group}" for group in groups)])
    for name, run in runs.items():
        curves = [*(getattr(run, column) for column in _COLUMNS), *(run.distance.get(group) for group in groups)]
        for place, step in enumerate(run.steps):
            writer.writerow([name, step, *(curve[place] if curve else None for curve in curves)])
    return text.getvalue()
