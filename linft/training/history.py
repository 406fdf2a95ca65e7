"""What is kept of a run while it goes on: rows of measurements, metrics, checkpoints; and how it goes on from them."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np
from jaxtyping import Float

from linft.core.losses import has_diverged
from linft.runtime.checkpoints import Checkpoints
from linft.runtime.metrics_log import Track
from linft.training.evaluate import Measurement
from linft.training.step import State

Tracking = Callable[[int | None], AbstractContextManager[Track]]
"""Opens a Track, knowing the step that a run goes on from, if any; `tracking.open` is of this kind."""


class Position(NamedTuple):
    """Where a run is."""

    step: int
    state: State
    losses: Float[np.ndarray, "k"]
    """Of the minibatches since the last logged step."""


@dataclass
class Recording:
    """The rows of a run so far, and where they and the state go."""

    measure: Callable[[State], Measurement]
    track: Track
    checkpoints: Checkpoints | None
    rows: list[Measurement]
    began: float
    """When the run began, had it not been interrupted."""

    def record(self, at: Position) -> bool:
        """Measure and keep the state; False where the loss is beyond recovery."""
        row = self.measure(at.state)
        if bool(has_diverged(row["train_loss"], self.rows[0]["train_loss"] if self.rows else row["train_loss"])):
            return False
        self.rows.append({"step": at.step, **row})
        self.track(at.step, _flat(row))
        self.save(at._replace(losses=np.zeros(0)), row["test_accuracy"])
        return True

    def save(self, at: Position, metric: float | None = None) -> None:
        """Write a checkpoint in the background."""
        if self.checkpoints is not None:
            log = {"rows": self.rows, "losses": at.losses.tolist(), "seconds": self.seconds}
            self.checkpoints.save(at.step, at.state, log, metric)

    def leave(self, at: Position) -> NoReturn:
        """Write a checkpoint and raise KeyboardInterrupt."""
        self.save(at)
        if self.checkpoints is not None:
            self.checkpoints.wait()
        raise KeyboardInterrupt

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def curves(self) -> dict[str, Any]:
        """The rows as the arrays of a trajectory."""

        def curve(*values: Any) -> Any:
            first, *_ = values
            if isinstance(first, dict):
                return {g: curve(*(value[g] for value in values)) for g in first}
            return np.array(values)

        curves = curve(*self.rows)
        return {"steps": curves.pop("step"), **curves}


@contextmanager
def recording(
    state: State, measure: Callable[[State], Measurement], tracking: Tracking | None, checkpoints: Checkpoints | None
) -> Iterator[tuple[Recording, Position]]:
    """A recording, and where the run is: at this state, or at the newest checkpoint. At the end the last is awaited."""
    found = None if checkpoints is None else checkpoints.restore(state)
    step, state, log = found or (0, state, {"rows": [], "losses": [], "seconds": 0.0})
    with (_untracked if tracking is None else tracking)(None if found is None else step) as track:
        began = time.perf_counter() - log["seconds"]
        yield (
            Recording(measure, track, checkpoints, log["rows"], began),
            Position(step, state, np.array(log["losses"], float)),
        )
        if checkpoints is not None:
            checkpoints.wait()


@contextmanager
def _untracked(step: int | None) -> Iterator[Track]:
    del step
    yield lambda step, values: None


def _flat(row: Measurement) -> dict[str, float]:
    """A row's numbers, those of groups as `norm/stem`."""
    flat = {name: value for name, value in row.items() if not isinstance(value, dict)}
    return flat | {f"{name}/{g}": v for name, by in row.items() if isinstance(by, dict) for g, v in by.items()}
