"""Signals that ask a run to end, deferred to the next good moment."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """In the block SIGTERM and SIGINT only make the function that it gives return True.

    So a loop stops between two steps, saves and leaves. A second signal acts at once, as it would
    have outside the block. Signals reach the main thread only: in any other the block changes nothing.

    Example:
      >>> import os
      >>> with deferred() as requested:
      ...     before = requested()
      ...     os.kill(os.getpid(), signal.SIGTERM)
      ...     before, requested()
      (False, True)
    """
    came: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        came.append(number)
        restore()

    def restore() -> None:
        for ending, handler in before.items():
            signal.signal(ending, handler)

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {ending: signal.signal(ending, handle) for ending in ENDING}
    try:
        yield lambda: bool(came)
    finally:
        restore()
