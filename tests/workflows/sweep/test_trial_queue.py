"""Points in a shared storage: each is one worker's, those of the dead are taken up, nothing is found twice."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from linft.core.errors import LinftError
from linft.workflows.sweep import trial_queue
from linft.workflows.sweep.result import Row, key
from linft.workflows.sweep.trial_queue import ATTEMPTS, TrialQueue, opened

POINTS = {key({"momentum": m}): {"momentum": m} for m in (0.0, 0.5, 0.8, 0.9)}
SPACE = {"momentum": CategoricalDistribution([0.0, 0.5, 0.8, 0.9])}
STORAGES = {"journal": lambda path: str(path / "study.journal"), "sqlite": lambda path: f"sqlite:///{path}/study.db"}


@pytest.fixture(params=STORAGES)
def where(request, tmp_path):
    return STORAGES[request.param](tmp_path)


@pytest.fixture
def join(where) -> Iterator[Callable[..., TrialQueue]]:
    """From a timeout to the queue of a worker, where all points are put up."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with contextlib.ExitStack() as stack:

        def joined(timeout: float = 60.0) -> TrialQueue:
            queue, _ = TrialQueue.join(stack.enter_context(opened(where)), "points", heartbeat=0.05, timeout=timeout)
            queue.enqueue(POINTS, SPACE)
            return queue

        yield joined


def settle(queue: TrialQueue, lease, value: float = 0.5) -> bool:
    row = Row(values=lease.values, status="finished", effective_rate=0.1, test_accuracy=1 - value)
    return queue.settle(lease, row, TrialState.COMPLETE, value)


def test_every_point_is_put_up_and_claimed_once(join):
    queues = [join(), join()]
    claimed = [queues[i % 2].lease() for i in range(4)]
    assert [lease.values for lease in claimed] == list(POINTS.values())
    assert queues[0].lease() is None and queues[1].lease() is None
    assert all(settle(queues[1], lease) for lease in claimed)
    assert set(queues[0].rows()) == set(POINTS)


def test_workers_that_all_want_the_same_share_it(join):
    """Threads of one process reach for the points at the same moment, each with a connection of its own."""
    queues = [join() for _ in range(4)]
    start, won, errors = threading.Barrier(len(queues)), [], []

    def work(queue):
        try:
            start.wait()
            while (lease := queue.lease()) is not None:
                won.append(lease.values["momentum"])
                settle(queue, lease)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(queue,)) for queue in queues]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(won) == [0.0, 0.5, 0.8, 0.9]


def test_a_point_that_two_have_put_up_is_run_once(join):
    queue = join()
    first = queue.lease()
    twice = optuna.trial.create_trial(
        state=TrialState.WAITING, params=first.values, distributions=SPACE, user_attrs={"point": key(first.values)}
    )
    queue.study.add_trial(twice)
    assert [queue.lease().values["momentum"] for _ in range(3)] == [0.5, 0.8, 0.9]
    assert queue.lease() is None


def test_a_worker_that_has_ended_loses_its_point_at_once(join, monkeypatch):
    queue = join()
    with monkeypatch.context() as patch:
        ended = trial_queue.me() | {"process": 2**22 + 1}  # larger than any process number
        patch.setattr(trial_queue, "me", lambda: ended)
        lost = queue.lease()
    held = queue.lease()
    queue.expire()
    queue.enqueue(POINTS, SPACE)
    left = [queue.lease().values for _ in range(3)]
    assert lost.values in left and held.values not in left
    assert not settle(queue, lost), "what it may still find is not taken"
    assert settle(queue, held)


def test_a_worker_elsewhere_loses_its_point_when_its_heartbeats_stop(join, monkeypatch):
    queue, now = join(timeout=100.0), 0.0
    monkeypatch.setattr(trial_queue.time, "monotonic", lambda: now)
    with monkeypatch.context() as patch:
        elsewhere = trial_queue.me() | {"place": "another machine"}
        patch.setattr(trial_queue, "me", lambda: elsewhere)
        quiet, beating = queue.lease(), queue.lease()
    queue.expire()
    for now in (60.0, 120.0):
        queue.storage.set_trial_user_attr(beating.trial._trial_id, "heartbeat", int(now))
        queue.expire()
    queue.enqueue(POINTS, SPACE)
    left = [queue.lease() for _ in range(4)]
    assert [lease and lease.values["momentum"] for lease in left] == [0.8, 0.9, quiet.values["momentum"], None]
    assert settle(queue, beating) and not settle(queue, quiet)


def test_a_worker_beats_while_it_runs(join):
    queue = join()
    lease, heard = queue.lease(), threading.Event()
    told = queue.storage.set_trial_user_attr

    def listen(trial_id, name, value):
        told(trial_id, name, value)
        if name == "heartbeat" and value == 2:
            heard.set()

    queue.storage.set_trial_user_attr = listen
    with queue.holding(lease):
        assert heard.wait(30)
    assert queue.study.trials[lease.trial.number].user_attrs["heartbeat"] >= 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, LinftError])
def test_a_point_is_given_back_by_a_worker_that_is_asked_to_leave(join, error):
    queue = join()
    lease = queue.lease()
    with pytest.raises(error), queue.holding(lease):
        raise error
    queue.enqueue(POINTS, SPACE)
    assert [queue.lease().values["momentum"] for _ in range(4)] == [0.5, 0.8, 0.9, lease.values["momentum"]]


def test_a_point_that_kills_its_workers_is_given_up(join, monkeypatch):
    queue = join()
    monkeypatch.setattr(trial_queue, "_lives", lambda worker: False)
    while (lease := queue.lease()) is not None:
        if lease.values["momentum"] != 0.8:
            settle(queue, lease)
        queue.expire()
        queue.enqueue(POINTS, SPACE)
    trials = queue.trials()[key({"momentum": 0.8})]
    assert len(trials) == ATTEMPTS and trial_queue.given_up(trials)
    assert set(queue.rows()) == set(POINTS) - {key({"momentum": 0.8})}


def test_this_process_lives_and_another_one_of_its_number_did_not():
    me = trial_queue.me()
    assert me["process"] == os.getpid() and trial_queue._lives(me)
    assert not trial_queue._lives(me | {"began": me["began"] - 3600})


def test_a_storage_that_cannot_be_opened_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    for where in (str(tmp_path / "file" / "study.journal"), "nosuchbase://here/there"):
        with pytest.raises(LinftError, match="cannot open the storage"), opened(where):
            pytest.fail("it was opened")
