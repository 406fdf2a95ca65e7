"""Orbax and tensorstore, silent about failures that reach us as exceptions and are reported in one line."""

import functools
import logging
import re
import sys
from pathlib import Path

TENSORSTORE = re.compile(r"[A-Z_]+: ")  # how its errors begin


@functools.cache
def quiet() -> None:
    """Drop what is printed beside the exception that we get.

    That is Orbax's log of tracebacks, one from each of its threads. And it stops listening to tensorstore
    when one array cannot be read or written: the errors of the others nobody retrieves, and what is done
    later finds the event loop closed, an exception that Python can raise nowhere.
    """
    before = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        late = isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"
        if not late:
            before(unraisable)

    sys.unraisablehook = hook
    logging.getLogger("absl").addFilter(
        lambda record: record.levelno < logging.WARNING or "orbax" not in Path(record.pathname).parts
    )
    logging.getLogger("asyncio").addFilter(
        lambda record: not (record.exc_info and TENSORSTORE.match(str(record.exc_info[1])))
    )


def reason(error: Exception) -> str:
    """What went wrong, of what may be a paragraph of tensorstore's.

    Example:
      >>> reason(ValueError('OUT_OF_RANGE: Error writing "w/0": Failed to write: File too large [code=27]'))
      'File too large'
      >>> reason(OSError(28, "No space left on device"))
      'No space left on device'
    """
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if TENSORSTORE.match(text):
        text = re.sub(r" \[\w+=.*", "", text, flags=re.DOTALL).rsplit(": ", 1)[-1]
    return " ".join(text.split())[:200]
