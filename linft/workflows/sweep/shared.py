"""Sweeps of runs that take long: any number of workers on any machines share the points through Optuna."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from linft.core.errors import LinftError
from linft.training.history import Track
from linft.workflows.sweep import result
from linft.workflows.sweep.grid import Drawn, Grid, Point, Values
from linft.workflows.sweep.result import Row, key
from linft.workflows.sweep.trial_queue import ATTEMPTS, Lease, TrialQueue, alive, given_up, opened, settled

WORST = 1.0  # the error of a run that diverged


class Watch:
    """What pruning looks at: pass it to `finetune(…, tracking=watch)` and to `Sharing`."""

    def __init__(self):
        self.report: Callable[[int, float], None] = lambda step, error: None

    @contextmanager
    def __call__(self, step: int | None) -> Iterator[Track]:
        """Called by a run as it begins."""
        del step

        def track(step: int, values: Mapping[str, Any]) -> None:
            if "test_accuracy" in values:
                self.report(step, 1 - values["test_accuracy"])

        yield track


@dataclass(frozen=True)
class Sharing:
    """How workers share a sweep. Error is 1 − accuracy on the task's test part: hold images out to choose by it."""

    storage: str
    """A journal file on a disk that all workers see, or the URL of a database, such as postgresql://…"""
    search: Literal["grid", "tpe"] = "grid"
    """Every point of the grid, or points that Optuna's tree of Parzen estimators suggests."""
    watch: Watch | None = None
    """Ends runs whose error is above the median of others at the same step; None: no run is ended."""
    heartbeat: float = 10.0
    """Seconds between two signs of life of a worker."""
    timeout: float = 120.0
    """Seconds of silence after which another worker takes up its point."""


@dataclass(frozen=True)
class SharedSweep:
    """A sweep that has been joined."""

    queue: TrialQueue
    sharing: Sharing
    points: Mapping[str, Values]
    """Of a grid, by key; of a search, none."""
    space: Mapping[str, BaseDistribution]
    trials: int
    """Points in all."""

    @classmethod
    @contextmanager
    def joined(cls, sharing: Sharing, name: str, grid: Grid) -> Iterator["SharedSweep"]:
        """Join the sweep of this name, and put up its points where nobody has.

        Raises:
          LinftError: a search needs one block of settings, and a number of trials.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        search = sharing.search == "tpe"
        if search and (len(grid.blocks) > 1 or grid.trials is None):
            raise LinftError("a search needs a grid of one block, and the number of points to try; give trials")
        points = {} if search else {key(values): values for values in grid.points()}
        # Workers ask while others still run: each then supposes that those points will turn out badly.
        sampler = optuna.samplers.TPESampler(constant_liar=True) if search else None
        pruner = optuna.pruners.NopPruner() if sharing.watch is None else optuna.pruners.MedianPruner()
        options: dict[str, Any] = {"sampler": sampler, "pruner": pruner, "direction": "minimize"}
        with opened(sharing.storage) as storage:
            queue, new = TrialQueue.join(storage, name, sharing.heartbeat, sharing.timeout, **options)
            shared = cls(queue, sharing, points, space(grid), len(points) or grid.trials or 0)
            if new:
                queue.enqueue(points, shared.space)
            yield shared

    def leases(self) -> Iterator[Lease]:
        """Points for this worker until there are none left, waiting for those that others run."""
        while True:
            if (lease := self._next()) is not None:
                yield lease
            elif self.done() >= self.trials:
                return
            else:
                time.sleep(self.queue.heartbeat / 2)
                self.queue.expire()
                self.queue.enqueue(self.points, self.space)

    def _next(self) -> Lease | None:
        return self.queue.lease() if self.sharing.search == "grid" else self._suggested()

    def _suggested(self) -> Lease | None:
        study = self.queue.study
        if sum(map(alive, study.get_trials(deepcopy=False))) >= self.trials:
            return None
        trial = study.ask(dict(self.space))
        before = [other for other in study.get_trials(deepcopy=False) if other.number < trial.number]
        if sum(map(alive, before)) >= self.trials:  # others were faster
            study.tell(trial, state=TrialState.FAIL)
            return None
        return self.queue.hold(trial.number)

    def done(self) -> int:
        """How many points are done with."""
        trials = self.queue.trials()
        if self.sharing.search == "tpe":
            return sum(settled(trial) for of_point in trials.values() for trial in of_point)
        return sum(any(map(settled, of_point)) or given_up(of_point) for of_point in trials.values())

    def run(self, lease: Lease, point: Point, find: Callable[[], Row]) -> Row | None:
        """The row of a leased point, found while the lease is held; None where others had taken it meanwhile."""
        if self.sharing.watch is not None:
            self.sharing.watch.report = partial(_report, lease)
        with self.queue.holding(lease):
            try:
                row = find()
            except optuna.TrialPruned as pruned:
                row = result.without_run(point, "pruned", str(pruned))
            state, error = _outcome(row)
            return row if self.queue.settle(lease, row, state, error) else None

    def rows(self, points: Sequence[Point]) -> list[Row]:
        """What all workers found, in the order of the grid; of a search, as it came."""
        found = self.queue.rows()
        if self.sharing.search == "tpe":
            return list(found.values())
        lost = f"{ATTEMPTS} workers died while they ran it"
        return [found.get(key(p.values)) or result.without_run(p, "failed", lost) for p in points]


def _report(lease: Lease, step: int, error: float) -> None:
    lease.trial.report(error, step)
    if lease.trial.should_prune():
        raise optuna.TrialPruned(f"its error of {error:.1%} at step {step} was above the median")


def _outcome(row: Row) -> tuple[TrialState, float | None]:
    """How a trial of this row ends."""
    if row.status == "pruned":
        return TrialState.PRUNED, None
    if row.status == "refused":
        return TrialState.FAIL, None
    return TrialState.COMPLETE, WORST if row.status == "diverged" else 1 - row.accuracy


def space(grid: Grid) -> dict[str, BaseDistribution]:
    """The grid's settings as Optuna has them."""
    names = dict.fromkeys(name for block in grid.blocks for name in block)
    return {name: _distribution([block[name] for block in grid.blocks if name in block]) for name in names}


def _distribution(given: list[tuple | Drawn]) -> BaseDistribution:
    """Of one setting, in all blocks that have it."""
    scales = {of.scale for of in given if isinstance(of, Drawn)}
    values = [value for of in given for value in ((of.low, of.high) if isinstance(of, Drawn) else of)]
    if not scales:
        return CategoricalDistribution(list(dict.fromkeys(values)))
    if scales == {"int"}:
        return IntDistribution(int(min(values)), int(max(values)))
    return FloatDistribution(float(min(values)), float(max(values)), log=scales == {"log"} and min(values) > 0)
