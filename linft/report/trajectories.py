"""Every curve of a result as one table."""

import csv
import io

from linft.report.reading import Result

_COLUMNS = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")


def table(result: Result) -> str:
    """A row for each run and recorded step, as CSV; what is not finite is empty."""
    runs = {name: run for name, run in (result.get("runs") or {}).items() if run}
    groups = list(dict.fromkeys(group for run in runs.values() for group in run.get("distance") or {}))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "step", *_COLUMNS, *(f"distance_{group}" for group in groups)])
    for name, run in runs.items():
        curves = [run.get(column) for column in _COLUMNS]
        curves += [(run.get("distance") or {}).get(group) for group in groups]
        for place, step in enumerate(run.get("steps") or []):
            writer.writerow([name, step, *(curve[place] if curve else None for curve in curves)])
    return text.getvalue()
