"""Reading a result: which runs it has, and their curves as arrays."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from linft.core.band import Band
from linft.core.trajectory_json import SavedTrajectory
from linft.report.runs import CURVES, PREDICTIONS
from linft.workflows.compare.agreement import Agreement
from linft.workflows.compare.result import ComparisonResult

Result = ComparisonResult
RunTrajectories = Mapping[str, SavedTrajectory]
"""Run -> its curves."""


def curves(result: Result) -> dict[str, SavedTrajectory]:
    """The runs that are shown, in their order."""
    return {name: result.runs[name] for name in CURVES if name in result.runs}


def bands(result: Result) -> dict[str, Band]:
    """What the reference and its predictions span over several seeds, in the order of runs; nothing of one seed."""
    seeds = result.seeds
    if seeds is None:
        return {}
    every = seeds.predicted | ({} if seeds.real is None else {result.reference: seeds.real})
    return {name: every[name] for name in CURVES if name in every}


def prediction(result: Result) -> str | None:
    """The run that stands for the tangent kernel: the one that trusts itself most, or its dual where none tells."""
    present = curves(result)
    told = {name: run.certificate.error for name, run in present.items() if run.certificate is not None}
    sure = {name: error for name, error in told.items() if error is not None}
    return (
        min(sure, key=lambda name: sure[name])
        if sure
        else next((name for name in PREDICTIONS if name in present), None)
    )


def series(run: SavedTrajectory, key: str) -> np.ndarray:
    """One curve; what is not finite is NaN."""
    return array(getattr(run, key))


def array(values: Iterable[float | None]) -> np.ndarray:
    """Numbers as floats; None is NaN."""
    return np.array([*values], float)


def last(run: SavedTrajectory, key: str) -> float | None:
    """The value at the end of a curve, where it is known."""
    return end(getattr(run, key))


def end(values: Sequence[float | None]) -> float | None:
    """The last of some numbers, where it is known."""
    return values[-1] if values else None


def distances(run: SavedTrajectory) -> dict[str, float]:
    """How far each layer group has moved at the end, where that is known."""
    ends = {group: end(values) for group, values in run.distance.items()}
    return {group: value for group, value in ends.items() if value is not None}


def agreement(result: Result, name: str) -> Agreement | None:
    """How one run agrees with the reference; None of the reference itself."""
    return result.agreement.get(name)


def error(result: Result, name: str) -> float | None:
    """The train-loss error of one run against the reference, where that is known."""
    found = agreement(result, name)
    return None if found is None else found.train_loss_error


def errors(result: Result) -> dict[str, float]:
    """The train-loss error of every approximation for which it is known, the cheapest approximation first."""
    compared = {name: error(result, name) for name in PREDICTIONS if name in curves(result)}
    return {name: value for name, value in compared.items() if value is not None}


def closest(errors: dict[str, float]) -> str:
    """The approximation with the smallest error; of two that round to the same, the cheaper one."""
    return min(errors, key=lambda name: round(errors[name], 3))
