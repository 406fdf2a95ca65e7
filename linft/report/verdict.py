"""What a result says, in plain sentences computed from its numbers."""

import math

from linft.report import reading
from linft.report.figures.attribution import finding as largest_term
from linft.report.reading import Result
from linft.report.runs import label
from linft.report.words import NONE, fixed, known, number, percent, signed

SUBJECTS = {
    "feature_linearized": "The linearized features",
    "explicit": "The Jacobian",
    "moving": "The kernel moving along its predicted path",
    "moving_features": "The features’ kernel moving along its predicted path",
}
GRADES = ((0.05, "closely"), (0.15, "fairly well"), (0.35, "roughly"), (math.inf, "poorly"))
"""Train-loss error up to which a prediction is called so."""


def verdict(result: Result) -> list[str]:
    """The one sentence that matters, then what supports it; what cannot be computed is left out."""
    sentences = (
        _headline(result),
        _told(result),
        by_seeds(result),
        by_running_averages(result),
        _divergence(result),
        _pace(result),
        _closest(result),
        _gap(result),
        _stable(result),
    )
    return [sentence for sentence in sentences if sentence]


def steps_error(result: Result, name: str) -> float | None:
    """Mean signed error of the updates needed to reach a loss, over the levels that both runs reach."""
    found = reading.agreement(result, name)
    levels = [] if found is None else found.steps_to_loss
    errors = [level.relative_error for level in levels if level.relative_error is not None]
    return sum(errors) / len(errors) if errors else None


def _headline(result: Result) -> str:
    real, predicted = result.reference, reading.prediction(result)
    runs = reading.curves(result)
    end = {name: percent(reading.last(runs[name], "test_accuracy")) for name in (real, predicted) if name}
    if predicted is None:
        return f"Trained only, not predicted: a final test accuracy of {end[real]}."
    what = SUBJECTS.get(predicted, "The tangent kernel")
    broke = {name: runs[name].diverged_at for name in (real, predicted)}
    if broke[real] is not None and broke[predicted] is not None:
        return f"{what} predicted that this run diverges: at update {broke[predicted]}, really at {broke[real]}."
    if broke[real] is not None:
        return f"{what} did not predict that this run diverges: it did so at update {broke[real]}."
    if broke[predicted] is not None:
        return (
            f"{what} predicted that this run diverges, at update {broke[predicted]}; it did not, "
            f"and reached a final test accuracy of {end[real]}."
        )
    error = reading.error(result, predicted)
    ends = f"a final test accuracy of {end[predicted]} where the real run reached {end[real]}"
    if not known(error):
        return f"{what} predicted {ends}."
    grade = next(word for bound, word in GRADES if error <= bound)
    return f"{what} predicted this run {grade}: its train loss is {percent(error)} off on average, with {ends}."


def _told(result: Result) -> str | None:
    """What the prediction said of itself."""
    predicted = reading.prediction(result)
    certificate = None if predicted is None else reading.curves(result)[predicted].certificate
    if certificate is None or certificate.error is None:
        return None
    return f"Before anything was trained, the prediction told an error of at most {percent(certificate.error)}."


def by_seeds(result: Result) -> str | None:
    """Where the prediction lies among real runs of other seeds."""
    seeds, name = result.seeds, reading.prediction(result)
    if seeds is None or seeds.real is None or name not in seeds.agreement:
        return None
    held, count = seeds.agreement[name], len(seeds.real.seeds)
    off = (
        ""
        if held.error_over_width is None
        else f", its distance from their mean {number(held.error_over_width, 2)} times the width of their band"
    )
    return (
        f"Over {count} seeds the mean prediction lies between the real runs at "
        f"{percent(held.inside, 0)} of the steps{off}."
    )


def by_running_averages(result: Result) -> str | None:
    """Where runs in training mode end as the trained network is used, by the averages that lag behind its weights."""
    runs = {name: run.running for name, run in reading.curves(result).items() if run.running is not None}
    if result.reference not in runs:
        return None
    ends = {name: f"{percent(run.test_accuracy[-1])} (loss {fixed(run.test_loss[-1])})" for name, run in runs.items()}
    predicted = [f"{end} by “{label(name)}”" for name, end in ends.items() if name != result.reference]
    return (
        f"With the running averages of batch norm’s statistics test accuracy ended at {ends[result.reference]}; "
        f"predicted {'were ' + ' and '.join(predicted) if predicted else 'by a kernel that moves alone'}."
    )


def _divergence(result: Result) -> str | None:
    told = (result.reference, reading.prediction(result))
    others = [
        f"“{label(name)}” at update {run.diverged_at}"
        for name, run in reading.curves(result).items()
        if run.diverged_at is not None and name not in told
    ]
    return f"Other runs that diverged: {', '.join(others)}." if others else None


def _pace(result: Result) -> str | None:
    predicted = reading.prediction(result)
    if predicted is None or reading.curves(result)[predicted].diverged_at is not None:
        return None
    error = steps_error(result, predicted)
    if error is None:
        return None
    if round(abs(error), 2) == 0:
        return "The prediction comes down to the same losses after as many updates as the real run."
    return (
        f"The prediction comes down to the same losses {percent(abs(error), 0)} "
        f"{'later' if error > 0 else 'earlier'} than the real run on average, counted in updates."
    )


def _closest(result: Result) -> str | None:
    errors = reading.errors(result)
    if len(errors) < 2:
        return None
    name = reading.closest(errors)
    return f"The closest of {len(errors)} approximations is “{label(name)}”, {percent(errors[name])} off."


def _gap(result: Result) -> str | None:
    finding = largest_term(result)
    return f"{finding}." if finding else None


def _stable(result: Result) -> str | None:
    part = result.stability
    if part is None:
        return None
    numbers = f"(h = {number(part.h)}, limit {number(part.limit)})"
    if part.stable:
        return f"The learning rate is stable in the kernel {numbers}."
    return f"The learning rate is beyond what the kernel calls stable {numbers}."


def left_out(result: Result) -> list[str]:
    """The runs that were not made, a sentence for each reason."""
    names: dict[str, list[str]] = {}
    for name, reason in result.skipped.items():
        names.setdefault(reason, []).append(f"“{label(name)}”")
    return [f"Left out: {', '.join(those)} ({reason})." for reason, those in names.items()]


def tiles(result: Result) -> list[tuple[str, str, str]]:
    """The key numbers: (what, value, remark)."""
    real, predicted = result.reference, reading.prediction(result)
    runs, rows = reading.curves(result), []
    if predicted:
        rows.append(
            (
                "Train-loss error",
                percent(reading.error(result, predicted)),
                "mean distance of the curves, of the mean real loss",
            )
        )
    if predicted:
        accuracy, broke = reading.last(runs[predicted], "test_accuracy"), runs[predicted].diverged_at
        truth = f"real: {percent(reading.last(runs[real], 'test_accuracy'))}"
        rows.append(
            (
                "Predicted test accuracy",
                percent(accuracy if broke is None else None),
                truth if broke is None else f"diverges at update {broke}; {truth}",
            )
        )
    if predicted:
        error = steps_error(result, predicted)
        rows.append(
            (
                "Updates to the same loss",
                NONE if error is None else f"{signed(100 * error, 0)}%",
                "no level that both reach" if error is None else "against the real run, on average",
            )
        )
    if result.stability is not None and known(result.stability.h):
        limit = f"stable below {fixed(result.stability.limit, 2)}"
        rows.append(("Stability h", fixed(result.stability.h, 2), limit))
    return rows
