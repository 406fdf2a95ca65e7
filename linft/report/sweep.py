"""The page of a sweep: heat maps, error against the effective rate, parallel coordinates, the best points."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from linft.report import style, templates, words
from linft.report.figures import sweeps
from linft.report.page import Shown
from linft.runtime.atomic_files import whole
from linft.workflows.sweep.agreement import SweepAgreement, agreement
from linft.workflows.sweep.result import STATUSES, Row, SweepBy, SweepResult, best_first, beyond_edge

FIGURES = {
    "heat_maps": sweeps.heat_maps,
    "effective_rate": sweeps.effective_rate,
    "parallel_coordinates": sweeps.parallel_coordinates,
}
LABELS = {
    "dual": "Predicted from the kernel",
    "dual-trace": "Predicted from the kernel’s trace",
    "dual-pseudo": "Predicted from the pseudo kernel",
    "features": "Predicted from the features’ kernel",
    "features-low-rank": "Predicted from the features’ kernel, few directions",
    "features-trace": "Predicted from the features’ kernel, its trace",
    "moving": "Predicted, the kernel moving",
    "moving-trace": "Predicted, the kernel’s trace moving",
    "moving-pseudo": "Predicted, the pseudo kernel moving",
    "moving-features": "Predicted, the features’ kernel moving",
    "explicit": "Predicted from the Jacobian",
    "explicit-features": "Predicted from the features’ Jacobian",
    "spectral": "Predicted, closed form",
    "spectral-trace": "Predicted, closed form on the trace",
    "spectral-pseudo": "Predicted, closed form on the pseudo kernel",
    "linearized": "Linearized network (weights)",
    "finetune": "Real",
}
"""What runs are called; a prediction is the first of those that are there, but for the last."""
BEST = 10
"""Points in a table."""


def write(content: SweepResult, directory: str | Path) -> Path:
    """Write `sweep.html`, one file with no script and nothing to fetch, of what a sweep found.

    Returns:
      Its path.

    Raises:
      LinftError: the directory cannot be written to.
    """
    path = Path(directory) / "sweep.html"
    page = render(content)
    with whole(path) as partial:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path


def render(content: SweepResult) -> str:
    """The page as HTML."""
    swept = content.sweeps
    predicted, real = names(content)
    agreed = agreement(swept[predicted].rows, swept[real].rows) if predicted and real else None
    return templates.template("sweep.html.jinja").render(
        content=content,
        figures=_figures(content),
        palette=style.PALETTE,
        lead=lead(content, agreed),
        agreed=agreed,
        runs=[_run(name, swept[name]) for name in sorted(swept, key=_place)],
        tables={label(name): _best(swept[name].rows) for name in (predicted, real) if name},
        recipe={name.replace("_", " "): words.plain(value) for name, value in asdict(content.recipe).items()},
    )


def label(name: str) -> str:
    """What a run is called, with its draws of the images where it has any.

    Example:
      >>> label("dual-trace-4-draws")
      'Predicted from the kernel’s trace, 4 draws of every image'
    """
    found = LABELS[_kind(name)]
    return found if _kind(name) == name else f"{found}, {name.split('-')[-2]} draws of every image"


def _kind(name: str) -> str:
    return name.removesuffix("-draws").rpartition("-")[0] if name.endswith("-draws") else name


def _place(name: str) -> int:
    return list(LABELS).index(_kind(name))


def names(content: SweepResult) -> tuple[str | None, str | None]:
    """The sweep that stands for the prediction, and the real one, where there are such."""
    present = sorted(content.sweeps, key=_place)
    predicted = next((name for name in present if name != "finetune"), None)
    return predicted, "finetune" if "finetune" in present else None


def lead(content: SweepResult, agreed: SweepAgreement | None) -> list[str]:
    """What was found, in sentences."""
    predicted, real = names(content)
    shown = content.sweeps[real or predicted or ""].rows
    ends = [row for row in shown if row.status == "finished"]
    sentences = []
    if ends:
        best = min(ends, key=best_first)
        sentences.append(
            f"Of {len(shown)} points the best {'reached' if real else 'is predicted to reach'} "
            f"{words.percent(best.test_accuracy)} of the {measured(content)} images: {setting(best)}."
        )
    else:
        sentences.append(f"None of {len(shown)} points ended.")
    certificates = [row.certificate for row in content.sweeps[predicted].rows if row.certificate] if predicted else []
    if certificates:
        held = sum(certificate.holds for certificate in certificates)
        within = words.percent(certificates[0].within)
        paths = sum(not certificate.shared for certificate in certificates)
        sentences.append(
            f"{held} of {len(certificates)} predictions say of themselves that they hold to within {within}; "
            f"their kernels moved along {paths} path{'s' if paths > 1 else ''}."
        )
    known, left, broken = beyond_edge(shown)
    if known:
        sentences.append(
            f"By how the loss sharpens along the predicted path {left} of {known} points leave it, and {broken} "
            "are expected to break; those that leave it are not compared with the others."
        )
    if agreed and agreed.points:
        tau = agreed.tau_accuracy
        ranked = "" if tau is None else f" rank them with τ = {words.fixed(tau, 2)}, and"
        sentences.append(
            f"On the {agreed.points} points that ended in both, the predictions{ranked} are off by "
            f"{words.points(agreed.accuracy_difference).lstrip('+')} on average; the point predicted to be best is "
            f"{words.points(agreed.regret).lstrip('+')} below the best."
        )
    return sentences


def measured(content: SweepResult) -> str:
    """What the images are called that accuracies are of."""
    return "test" if (content.task or {}).get("held_out") is None else "held-out"


def setting(row: Row) -> str:
    """A point in words."""
    return ", ".join(f"{name.replace('_', ' ')} {words.plain(value)}" for name, value in row.values.items())


def _figures(content: SweepResult) -> dict[str, Shown]:
    predicted, real = (content.sweeps[name].rows if name else None for name in names(content))
    shown = {}
    with style.settings():
        for name, draw in FIGURES.items():
            wide, narrow = draw(predicted, real, False), draw(predicted, real, True)
            if wide is not None and narrow is not None:
                svgs = [
                    style.inline(style.to_svg(drawing.figure, salt), salt, drawing.title)
                    for drawing, salt in ((wide, name), (narrow, f"{name}-narrow"))
                ]
                shown[name] = Shown(wide.title, wide.caption, *map(Markup, svgs))
    return shown


def _run(name: str, swept: SweepBy) -> dict[str, Any]:
    """A line of the table of runs."""
    rows = swept.rows
    counts = {status: sum(row.status == status for row in rows) for status in STATUSES}
    return {
        "label": label(name),
        "dropped": swept.dropped,
        "counts": counts,
        "start_seconds": swept.start_seconds,
        "run_seconds": sum(row.seconds or 0.0 for row in rows),
        "points": len(rows),
    }


def _best(rows: list[Row]) -> dict[str, Any]:
    finished = [row for row in rows if row.status == "finished"]
    best = sorted(finished, key=best_first)[:BEST]
    settings = list(dict.fromkeys(name for row in best for name in row.values))
    return {"settings": settings, "rows": best}
