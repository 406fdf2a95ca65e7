"""`linft.load_task("digits" | "npz:PATH" | "folder:PATH" | "tfds:NAME" | "data:NAME")`: a task by its name."""

import logging
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from linft.core.errors import LinftError
from linft.core.task import Task
from linft.data import image_folder, tfds
from linft.data.catalogue import prepared

NAMES = (("x_{}", "y_{}"), ("{}_images", "{}_labels"))
"""What images and labels of a part are called; the first of which a file has the training images."""
TEST_PARTS = ("test", "val")  # of several the first
CLASS_NAMES = "class_names"

_log = logging.getLogger("linft")


def digits(rest: str) -> Task:
    """scikit-learn's 1797 scanned digits, 8×8 grey, 10 classes; a quarter of each is the test part."""
    if rest:
        raise LinftError(f"the task digits takes nothing after its name, not {rest!r}")
    pixels, labels = load_digits(return_X_y=True)
    images = np.round(np.reshape(pixels, (-1, 8, 8)) * (255 / 16)).astype(np.uint8)
    return Task.from_arrays(images, labels, name="digits")


def npz(path: str) -> Task:
    """Read x_train, y_train, x_test, y_test, or train_images, train_labels, test_images, test_labels; class_names.

    `val` stands for a missing `test`; without both the source rule of `Task.from_arrays` applies.

    Raises:
      LinftError: a missing or damaged file, one without such arrays, or what `Task.from_arrays` refuses.
    """
    if not Path(path).is_file():
        raise LinftError(f"no file {path}; give the path of an .npz file after npz:")
    try:
        with open(path, "rb") as data, np.load(data, allow_pickle=False) as file:
            found = set(file.files)
            images, labels = next((names for names in NAMES if names[0].format("train") in found), NAMES[0])
            test = next((part for part in TEST_PARTS if images.format(part) in found), None)
            parts = ["train"] if test is None else ["train", test]
            needed = [name.format(part) for part in parts for name in (images, labels)]
            arrays = [file[name] for name in needed if name in found]
            names = np.ravel(file[CLASS_NAMES]) if CLASS_NAMES in found else None
    except (ValueError, TypeError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise LinftError(f"{path} is not a readable .npz file of plain arrays ({error})") from None
    if missing := [name for name in needed if name not in found]:
        either = " or ".join(", ".join(n.format(p) for p in ("train", "test") for n in names) for names in NAMES)
        raise LinftError(f"{path} lacks {', '.join(missing)}; it needs {either}")
    if test == "test" and images.format("val") in found:
        _log.warning("%s: passed over %s, for the test part is there", path, images.format("val"))
    return Task.from_arrays(*arrays, name=Path(path).stem, class_names=names)


SOURCES: dict[str, Callable[[str], Task]] = {
    "digits": digits,
    "npz": npz,
    "folder": image_folder.load,
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
