"""The benchmark of model selection in words and numbers, as Markdown."""

from collections.abc import Mapping, Sequence

import numpy as np

from linft.workflows.benchmark.measures import MEASURES, SMALLER_IS_BETTER
from linft.workflows.benchmark.selections import CHANCE, ORACLE, Estimate, Selection, summary

TOP = 3  # models that are fine-tuned after a selection
POINTS = ("gain of top 1", "gain of top 3", "regret of top 1", "regret of top 3")  # of accuracy


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is left-aligned."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def scores(selections: Sequence[Selection], reference: str, order: str = "gain of top 3") -> str:
    """Every measure of every score with its interval, best first by one measure."""
    estimates = summary(selections, reference)
    names = ranked(estimates, order)
    rows = [
        [name, *(_estimate(measure, estimates[name][measure]) for measure in MEASURES)]
        for name in (ORACLE, *names, CHANCE)
    ]
    wins = [estimates[name][order].wins for name in names]
    shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(names, wins, strict=True) if share >= 0.05)
    return markdown(["score", *MEASURES], rows) + f"\nBest by {order} in the bootstrap's draws: {shares}.\n"


def ranked(estimates: Mapping[str, Mapping[str, Estimate]], measure: str) -> list[str]:
    """The scores, the best by one measure first."""
    sign = 1 if measure in SMALLER_IS_BETTER else -1
    names = [name for name in estimates if name not in (CHANCE, ORACLE)]
    return sorted(names, key=lambda name: (sign * estimates[name][measure].mean, name))


def _estimate(measure: str, of: Estimate) -> str:
    if np.isnan(of.mean):
        return "–"
    if measure in POINTS:
        return f"{100 * of.mean:+z.1f} ({100 * of.low:+z.1f} to {100 * of.high:+z.1f})"
    digits = 1 if measure in SMALLER_IS_BETTER else 2
    return f"{of.mean:.{digits}f} ({of.low:.{digits}f} to {of.high:.{digits}f})"


def costs(selections: Sequence[Selection], reference: str) -> str:
    """Seconds over those of one fine-tuning of the reference expert, means over targets and seeds (Table 3)."""
    rows = []
    among = [c for c in selections if reference in c.models]
    timed = [c for c in among if np.isfinite(c.finetuning_seconds).all()]
    if among and not timed:
        return "Models were scored on another device than they were fine-tuned on, so that seconds do not compare.\n"
    for shots in dict.fromkeys(selection.shots for selection in timed):
        own = [c for c in timed if c.shots == shots]
        unit = [selection.of(reference, selection.finetuning_seconds) for selection in own]
        rows.append([f"{shots}", "all models, fine-tuned", _ratio([c.finetuning_seconds.sum() for c in own], unit), ""])
        for name in dict.fromkeys(name for selection in own for name in selection.scoring_seconds):
            scoring = _ratio([np.nansum(c.scoring_seconds[name]) for c in own], unit)
            chosen = _ratio([_of_chosen(selection, name) for selection in own], unit)
            rows.append([f"{shots}", name, scoring, chosen])
    header = ["images a class", "score", "scoring all models", f"fine-tuning the {TOP} chosen"]
    return markdown(header, rows)


def _of_chosen(selection: Selection, name: str) -> float:
    scores = selection.scores.get(name, np.full(len(selection.models), np.nan))
    return float(
        selection.finetuning_seconds[np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")[:TOP]].sum()
    )


def _ratio(seconds: Sequence[float], unit: Sequence[float]) -> str:
    return f"{np.mean(np.array(seconds) / np.array(unit)):.2f}×"


def accuracies(selections: Sequence[Selection], reference: str) -> str:
    """Fine-tuned accuracy of the reference, of the best and of the worst model on every target (Fig. 2)."""
    rows = []
    for target, shots in dict.fromkeys((selection.target, selection.shots) for selection in selections):
        own = [c for c in selections if (c.target, c.shots) == (target, shots)]
        mean = np.mean([selection.accuracies for selection in own], axis=0)
        best, worst = int(mean.argmax()), int(mean.argmin())
        base = np.mean([selection.of(reference, selection.accuracies) for selection in own])
        better = int((mean > base).sum())
        rows.append(
            [
                target,
                f"{shots}",
                str(len(own)),
                f"{base:.1%}",
                f"{mean[best]:.1%} ({own[0].models[best]})",
                f"{mean[worst]:.1%} ({own[0].models[worst]})",
                f"{better} of {len(mean)}",
            ]
        )
    header = ["target", "images a class", "seeds", reference, "best", "worst", "better than the reference"]
    return markdown(header, rows)


def images(shots: int | str) -> str:
    """A number of training images in words."""
    return "all images" if shots == "full" else f"{shots} a class"
