"""Points of a sweep in an Optuna storage that many workers share: each is claimed by one of them, and run once.

A trial stands for one attempt at one point. Optuna hands a waiting trial to one worker only; of several
trials for one point the first that is alive counts, and the others are dropped when they are claimed.
The worker that took it has a lease on it, and counts heartbeats into the trial while it runs; one that has ended on
this machine, or whose count has stood still for longer than the timeout, has lost its point to the others, and what it
may still find is not taken.
"""

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.distributions import BaseDistribution
from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import NullPool, event
from sqlalchemy.exc import SQLAlchemyError

from linft.core.errors import LinftError
from linft.runtime import json_lines, schema
from linft.workflows.sweep.result import Row, key

_log = logging.getLogger("linft")

TRIES = 8  # to open a database
SQLITE_WAIT = 60  # seconds for another worker's transaction
ATTEMPTS = 3  # workers that a point may take with it before it is given up

POINT, ROW, HEARTBEAT, WORKER, LEFT = "point", "row", "heartbeat", "worker", "left"
"""Attributes of a trial: point, what was found, heartbeats so far, worker, and whether that one left in peace."""


@contextmanager
def opened(where: str) -> Iterator[BaseStorage]:
    """A database by its URL (anything with ://), or a journal file on a disk that the workers share.

    Raises:
      LinftError: it cannot be opened.
    """
    try:
        storage = _open(where)
    except Exception as error:  # of whatever database driver
        first, *_ = str(error).splitlines()
        raise LinftError(f"cannot open the storage {where} ({first}); give a path, or postgresql://… or so") from None
    try:
        yield storage
    finally:
        storage.remove_session()
        if isinstance(storage, RDBStorage):
            storage.engine.dispose()


def _open(where: str) -> BaseStorage:
    if "://" not in where:
        Path(where).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(where, _WholeRecords(where)))
    of_sqlite = {"poolclass": NullPool, "connect_args": {"timeout": SQLITE_WAIT}}
    for left in reversed(range(TRIES)):
        try:
            storage = RDBStorage(where, engine_kwargs=of_sqlite if where.startswith("sqlite") else None)
            break
        except (SQLAlchemyError, StorageInternalError):  # others make the tables of a new database at the same moment
            if not left:
                raise
            time.sleep(random.uniform(0.1, 0.5))
    return _one_writer_at_a_time(storage) if where.startswith("sqlite") else storage


class _WholeRecords(JournalFileSymlinkLock):
    """The lock that a journal is added to under; a record that a killed writer left unfinished is dropped first.

    Optuna would glue its next record to it, and never again read the journal.
    """

    def __init__(self, where: str):
        super().__init__(where)
        self.journal = Path(where)

    def acquire(self) -> bool:
        held = super().acquire()
        try:
            if json_lines.drop_torn(self.journal):
                _log.warning("%s: dropped the last record, which was cut off", self.journal)
        except BaseException:
            self.release()
            raise
        return held


def _one_writer_at_a_time(storage: RDBStorage) -> RDBStorage:
    """SQLite does not know the row locks by which Optuna hands out a trial once; its transactions can take turns."""

    @event.listens_for(storage.engine, "connect")
    def leave_transactions_to_us(connection: Any, record: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(storage.engine, "begin")
    def take_the_lock(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return storage


@dataclass(frozen=True)
class Lease:
    """A point that is this worker's to run."""

    trial: optuna.trial.Trial

    @property
    def values(self) -> dict[str, Any]:
        """What the point sets."""
        return self.trial.params


@dataclass(frozen=True)
class TrialQueue:
    """The points of one sweep in a storage."""

    storage: BaseStorage
    study: optuna.Study
    heartbeat: float
    """Seconds between two heartbeats of a worker."""
    timeout: float
    """Seconds of silence after which a worker elsewhere has lost its point."""
    heard: dict[int, tuple[int, float]] = field(default_factory=dict)
    """By trial: its heartbeats, and when so many were first seen; by this worker's own clock."""

    @classmethod
    def join(
        cls, storage: BaseStorage, name: str, heartbeat: float, timeout: float, **options: Any
    ) -> tuple["TrialQueue", bool]:
        """The queue of this name, and whether it is new."""
        try:
            study, new = optuna.create_study(storage=storage, study_name=name, **options), True
        except DuplicatedStudyError:
            study, new = optuna.create_study(storage=storage, study_name=name, load_if_exists=True, **options), False
        return cls(storage, study, heartbeat, timeout), new

    def enqueue(self, points: Mapping[str, Mapping[str, Any]], distributions: Mapping[str, BaseDistribution]) -> None:
        """Put up every point that no trial stands for, unless it has been given up."""
        trials = self.trials()
        for point, values in points.items():
            of_point = trials.get(point, [])
            if not any(map(alive, of_point)) and not given_up(of_point):
                own = {name: distributions[name] for name in values}
                waiting = create_trial(
                    state=TrialState.WAITING, params=dict(values), distributions=own, user_attrs={POINT: point}
                )
                self.study.add_trial(waiting)

    def trials(self) -> dict[str, list[FrozenTrial]]:
        """All trials by their points."""
        found: dict[str, list[FrozenTrial]] = {}
        for trial in self.study.get_trials(deepcopy=False):
            found.setdefault(trial.user_attrs.get(POINT, key(trial.params)), []).append(trial)
        return found

    def lease(self) -> Lease | None:
        """The first waiting point, which is now this worker's; None where none is waiting."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            point = trial.user_attrs[POINT]
            if self._take(trial):
                others = [t for t in self.trials()[point] if t.number < trial.number]
                if not any(map(alive, others)):
                    return self.hold(trial.number)
                self._fail(trial.number, left=True)
        return None

    def hold(self, number: int) -> Lease:
        """The lease on a trial that this worker has."""
        trial_id = self._id(number)
        self.storage.set_trial_user_attr(trial_id, WORKER, me())
        return Lease(optuna.trial.Trial(self.study, trial_id))

    @contextmanager
    def holding(self, lease: Lease) -> Iterator[None]:
        """Heartbeats while the block runs. A block that is left by an error, or by a signal, gives the point back."""
        ended = threading.Event()
        trial_id = self._id(lease.trial.number)

        def beat() -> None:
            count = 0
            while not ended.wait(self.heartbeat):
                count += 1
                with suppress(Exception):  # a storage that is out of reach for a while; others then may take over
                    self.storage.set_trial_user_attr(trial_id, HEARTBEAT, count)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            ended.set()
            thread.join()
            self._fail(lease.trial.number, left=True)
            raise
        finally:
            ended.set()
            thread.join()

    def settle(self, lease: Lease, row: Row, state: TrialState, value: float | None) -> bool:
        """Write down what was found; False where the point had been taken away meanwhile."""
        try:
            self.storage.set_trial_user_attr(self._id(lease.trial.number), ROW, schema.content(row))
            self.study.tell(lease.trial.number, value, state)
        except (UpdateFinishedTrialError, ValueError):
            return False
        return True

    def expire(self) -> None:
        """Take points from workers that have died."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._dead(trial):
                self._fail(trial.number, left=False)

    def rows(self) -> dict[str, Row]:
        """What has been found, by point."""
        of_points = self.trials().items()
        return {
            point: schema.typed(trial.user_attrs[ROW], Row, f"the storage's sweep {self.study.study_name}")
            for point, trials in of_points
            for trial in trials
            if settled(trial)
        }

    def _take(self, trial: FrozenTrial) -> bool:
        with suppress(UpdateFinishedTrialError):
            return self.storage.set_trial_state_values(self._id(trial.number), TrialState.RUNNING)
        return False

    def _fail(self, number: int, left: bool) -> None:
        with suppress(UpdateFinishedTrialError, ValueError):
            if left:
                self.storage.set_trial_user_attr(self._id(number), LEFT, True)
            self.study.tell(number, state=TrialState.FAIL)

    def _dead(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get(WORKER)
        if worker is not None and worker["place"] == place():
            return not _lives(worker)
        now, count = time.monotonic(), trial.user_attrs.get(HEARTBEAT, 0)
        if self.heard.get(trial.number, (-1, now))[0] != count:
            self.heard[trial.number] = (count, now)
        return now - self.heard[trial.number][1] > self.timeout

    def _id(self, number: int) -> int:
        study_id = self.storage.get_study_id_from_name(self.study.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, number)


def settled(trial: FrozenTrial) -> bool:
    """Whether the point of this trial is done with."""
    return trial.state.is_finished() and ROW in trial.user_attrs


def alive(trial: FrozenTrial) -> bool:
    """Whether this trial stands for its point: waits, runs, or has found something."""
    return not trial.state.is_finished() or settled(trial)


def given_up(trials: list[FrozenTrial]) -> bool:
    """Whether the point of these trials has cost too many workers."""
    return sum(not alive(trial) and LEFT not in trial.user_attrs for trial in trials) >= ATTEMPTS


def place() -> str:
    """Where process numbers mean what they mean here: a machine, and a container on it."""
    namespace = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {os.readlink(namespace) if namespace.exists() else ''}".strip()


def me() -> dict[str, Any]:
    """The process that asks, as other workers know it."""
    return {"place": place(), "process": os.getpid(), "began": psutil.Process().create_time()}


def _lives(worker: Mapping[str, Any]) -> bool:
    try:
        process = psutil.Process(worker["process"])
        return abs(process.create_time() - worker["began"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
