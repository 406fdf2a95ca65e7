"""The table of sources: `linft.load_task("digits" | "npz:PATH" | "folder:PATH" | "tfds:NAME" | "data:NAME")`."""

import os
from collections.abc import Callable

from linft.core.errors import LinftError
from linft.core.task import Task
from linft.data import digits, folder, npz, tfds
from linft.data.catalogue import prepared

SOURCES: dict[str, Callable[[str], Task]] = {
    "digits": digits.load,
    "npz": npz.load,
    "folder": folder.load,
    "tfds": tfds.load,
    "data": prepared.load,
}
DOWNLOADS: dict[str, Callable[[str], None]] = {"tfds": tfds.download, "data": prepared.download}


def load_task(name: str, download: bool = False) -> Task:
    """Load a task by name; nothing is downloaded unless asked, and only by sources that can.

    Example:
      >>> task = load_task("digits")
      >>> len(task.y_train), len(task.y_test), task.num_classes
      (1347, 450, 10)
    """
    source, _, rest = name.partition(":")
    if source not in SOURCES:
        raise LinftError(f"no task {name!r}; give digits, npz:PATH, folder:PATH, tfds:NAME or data:NAME")
    rest = os.path.expanduser(rest)
    if download and source in DOWNLOADS:
        DOWNLOADS[source](rest)
    return SOURCES[source](rest)
