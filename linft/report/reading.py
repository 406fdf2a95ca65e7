"""Reading a result: which runs it has, and their curves as arrays."""

from typing import Any

import numpy as np

from linft.core.errors import LinftError
from linft.report.runs import CURVES, PREDICTIONS

SCHEMA = "linft-compare-1"

Result = dict[str, Any]


def check(result: Result) -> None:
    """Refuse a dictionary of another kind."""
    if result.get("schema") != SCHEMA:
        raise LinftError(
            f"this is not a result of schema {SCHEMA} but {result.get('schema')!r}; "
            "give the content of a result.json that `linft compare` wrote"
        )


def curves(result: Result) -> dict[str, dict[str, Any]]:
    """The runs that have curves, in the order in which they are shown."""
    runs = result.get("runs") or {}
    return {name: runs[name] for name in CURVES if (runs.get(name) or {}).get("steps")}


def reference(result: Result) -> str | None:
    """The run that all others are held against, if there is one."""
    name = result.get("reference")
    return name if name in curves(result) else None


def prediction(result: Result) -> str | None:
    """The run that stands for the tangent kernel: its dual where there is one."""
    present = curves(result)
    return next((name for name in PREDICTIONS if name in present), None)


def series(run: dict[str, Any], key: str) -> np.ndarray:
    """One curve; what is not finite is NaN."""
    return array(run.get(key))


def array(values: Any) -> np.ndarray:
    """Numbers as floats; null is NaN."""
    return np.array([np.nan if value is None else value for value in values or ()], float)


def last(run: dict[str, Any], key: str) -> float | None:
    """The value at the end of a curve, where it is known."""
    values: Any = run.get(key) or [None]
    return None if values[-1] is None else float(values[-1])


def distances(run: dict[str, Any]) -> dict[str, float]:
    """How far each layer group has moved at the end, where that is known."""
    ends = {group: last({"d": values}, "d") for group, values in (run.get("distance") or {}).items()}
    return {group: value for group, value in ends.items() if value is not None}


def agreement(result: Result, name: str) -> dict[str, Any]:
    """How one run agrees with the reference; empty where it was not compared."""
    return (result.get("agreement") or {}).get(name) or {}


def errors(result: Result) -> dict[str, float]:
    """The train-loss error of every approximation for which it is known, the cheapest approximation first."""
    compared = {name: agreement(result, name).get("train_loss_error") for name in PREDICTIONS if name in curves(result)}
    return {name: float(error) for name, error in compared.items() if error is not None}


def closest(errors: dict[str, float]) -> str:
    """The approximation with the smallest error; of two that round to the same, the cheaper one."""
    return min(errors, key=lambda name: round(errors[name], 3))
