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
from linft.workflows.sweep.result import key
from linft.workflows.sweep.trial_queue import ATTEMPTS, Board, opened

POINTS = {key({"momentum": m}): {"momentum": m} for m in (0.0, 0.5, 0.8, 0.9)}
SPACE = {"momentum": CategoricalDistribution([0.0, 0.5, 0.8, 0.9])}
STORAGES = {"journal": lambda path: str(path / "study.journal"), "sqlite": lambda path: f"sqlite:///{path}/study.db"}


@pytest.fixture(params=STORAGES)
def where(request, tmp_path):
    return STORAGES[request.param](tmp_path)


@pytest.fixture
def join(where) -> Iterator[Callable[..., Board]]:
    """From a grace to the board of a worker, where all points are put up."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with contextlib.ExitStack() as stack:

        def joined(grace: float = 60.0) -> Board:
            board, _ = Board.join(stack.enter_context(opened(where)), "points", beat=0.05, grace=grace)
            board.post(POINTS, SPACE)
            return board

        yield joined


def settle(board: Board, claim, value: float = 0.5) -> bool:
    return board.settle(claim, {"values": claim.values, "found": value}, TrialState.COMPLETE, value)


def test_every_point_is_put_up_and_claimed_once(join):
    boards = [join(), join()]
    claimed = [boards[i % 2].claim() for i in range(4)]
    assert [claim.values for claim in claimed] == list(POINTS.values())
    assert boards[0].claim() is None and boards[1].claim() is None
    assert all(settle(boards[1], claim) for claim in claimed)
    assert set(boards[0].rows()) == set(POINTS)


def test_workers_that_all_want_the_same_share_it(join):
    """Threads of one process reach for the points at the same moment, each with a connection of its own."""
    boards = [join() for _ in range(4)]
    start, won, errors = threading.Barrier(len(boards)), [], []

    def work(board):
        try:
            start.wait()
            while (claim := board.claim()) is not None:
                won.append(claim.values["momentum"])
                settle(board, claim)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(board,)) for board in boards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(won) == [0.0, 0.5, 0.8, 0.9]


def test_a_point_that_two_have_put_up_is_run_once(join):
    board = join()
    first = board.claim()
    twice = optuna.trial.create_trial(
        state=TrialState.WAITING, params=first.values, distributions=SPACE, user_attrs={"point": key(first.values)}
    )
    board.study.add_trial(twice)
    assert [board.claim().values["momentum"] for _ in range(3)] == [0.5, 0.8, 0.9]
    assert board.claim() is None


def test_a_worker_that_has_ended_loses_its_point_at_once(join, monkeypatch):
    board = join()
    with monkeypatch.context() as patch:
        ended = trial_queue.me() | {"process": 2**22 + 1}  # larger than any process number
        patch.setattr(trial_queue, "me", lambda: ended)
        lost = board.claim()
    held = board.claim()
    board.release_dead()
    board.post(POINTS, SPACE)
    left = [board.claim().values for _ in range(3)]
    assert lost.values in left and held.values not in left
    assert not settle(board, lost), "what it may still find is not taken"
    assert settle(board, held)


def test_a_worker_elsewhere_loses_its_point_when_its_beats_stand_still(join, monkeypatch):
    board, now = join(grace=100.0), 0.0
    monkeypatch.setattr(trial_queue.time, "monotonic", lambda: now)
    with monkeypatch.context() as patch:
        elsewhere = trial_queue.me() | {"place": "another machine"}
        patch.setattr(trial_queue, "me", lambda: elsewhere)
        quiet, beating = board.claim(), board.claim()
    board.release_dead()
    for now in (60.0, 120.0):
        board.storage.set_trial_user_attr(beating.trial._trial_id, "beat", int(now))
        board.release_dead()
    board.post(POINTS, SPACE)
    left = [board.claim() for _ in range(4)]
    assert [claim and claim.values["momentum"] for claim in left] == [0.8, 0.9, quiet.values["momentum"], None]
    assert settle(board, beating) and not settle(board, quiet)


def test_a_worker_beats_while_it_runs(join):
    board = join()
    claim, heard = board.claim(), threading.Event()
    told = board.storage.set_trial_user_attr

    def listen(trial_id, name, value):
        told(trial_id, name, value)
        if name == "beat" and value == 2:
            heard.set()

    board.storage.set_trial_user_attr = listen
    with board.holding(claim):
        assert heard.wait(30)
    assert board.study.trials[claim.trial.number].user_attrs["beat"] >= 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, LinftError])
def test_a_point_is_given_back_by_a_worker_that_is_asked_to_leave(join, error):
    board = join()
    claim = board.claim()
    with pytest.raises(error), board.holding(claim):
        raise error
    board.post(POINTS, SPACE)
    assert [board.claim().values["momentum"] for _ in range(4)] == [0.5, 0.8, 0.9, claim.values["momentum"]]


def test_a_point_that_kills_its_workers_is_given_up(join, monkeypatch):
    board = join()
    monkeypatch.setattr(trial_queue, "_lives", lambda worker: False)
    while (claim := board.claim()) is not None:
        if claim.values["momentum"] != 0.8:
            settle(board, claim)
        board.release_dead()
        board.post(POINTS, SPACE)
    trials = board.trials()[key({"momentum": 0.8})]
    assert len(trials) == ATTEMPTS and trial_queue.given_up(trials)
    assert set(board.rows()) == set(POINTS) - {key({"momentum": 0.8})}


def test_this_process_lives_and_another_one_of_its_number_did_not():
    me = trial_queue.me()
    assert me["process"] == os.getpid() and trial_queue._lives(me)
    assert not trial_queue._lives(me | {"began": me["began"] - 3600})


def test_a_storage_that_cannot_be_opened_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    for where in (str(tmp_path / "file" / "study.journal"), "nosuchbase://here/there"):
        with pytest.raises(LinftError, match="cannot open the storage"), opened(where):
            pytest.fail("it was opened")
