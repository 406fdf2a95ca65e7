"""A signal to end waits for the next good moment; the second one does not."""

import os
import signal
import threading

import pytest

from linft.runtime import signals

SIGNALS = [signal.SIGTERM, signal.SIGINT]


class Now(Exception):
    """What the handler outside the block raises."""


@pytest.fixture(autouse=True)
def outside():
    """A handler of both signals that acts at once, as the command line has one."""

    def handler(number, frame):
        raise Now

    before = {number: signal.signal(number, handler) for number in SIGNALS}
    yield handler
    for number, old in before.items():
        signal.signal(number, old)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_a_request(outside, number):
    done = []
    with signals.deferred() as requested:
        for step in range(5):
            if requested():
                break
            if step == 2:
                os.kill(os.getpid(), number)
            done.append(step)
    assert done == [0, 1, 2]
    assert all(signal.getsignal(each) is outside for each in SIGNALS)


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_the_second_signal_acts_at_once(first, second):
    with pytest.raises(Now), signals.deferred() as requested:
        os.kill(os.getpid(), first)
        assert requested()
        os.kill(os.getpid(), second)
        pytest.fail("it did not act")


def test_handlers_are_restored_after_an_error(outside):
    with pytest.raises(KeyError), signals.deferred():
        raise KeyError
    assert all(signal.getsignal(each) is outside for each in SIGNALS)
    with pytest.raises(Now):
        os.kill(os.getpid(), signal.SIGTERM)


def test_blocks_may_be_nested():
    with signals.deferred() as outer, signals.deferred() as inner:
        os.kill(os.getpid(), signal.SIGTERM)
        assert inner() and not outer()
        os.kill(os.getpid(), signal.SIGTERM)
        assert outer()
        with pytest.raises(Now):
            os.kill(os.getpid(), signal.SIGTERM)


def test_in_another_thread_nothing_changes(outside):
    seen = []

    def work():
        with signals.deferred() as requested:
            seen.extend([requested(), *(signal.getsignal(each) for each in SIGNALS)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, outside, outside]
