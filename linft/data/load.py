"""The table of sources: `linft.load_task("digits" | "npz:PATH" | "folder:PATH" | "tfds:NAME")`."""

from collections.abc import Callable

from linft.data import digits, npz
from linft.errors import LinftError
from linft.task import Task

SOURCES: dict[str, Callable[[str], Task]] = {"digits": digits.load, "npz": npz.load}


def load_task(name: str) -> Task:
    """Load a task by name.

    Example:
      >>> task = load_task("digits")
      >>> len(task.y_train), len(task.y_test), task.num_classes
      (1347, 450, 10)
    """
    source, _, rest = name.partition(":")
    if source not in SOURCES:
        raise LinftError(f"no task {name!r}; give one of {', '.join(SOURCES)}, such as digits or npz:PATH")
    return SOURCES[source](rest)
