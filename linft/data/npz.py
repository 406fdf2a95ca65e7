"""`npz:PATH`: an .npz file of images and labels by part, as Keras or MedMNIST name them, and maybe class names."""

import logging
import zipfile
import zlib
from pathlib import Path

import numpy as np

from linft.core.errors import LinftError
from linft.core.task import Task

NAMES = (("x_{}", "y_{}"), ("{}_images", "{}_labels"))
"""What images and labels of a part are called; the first of which a file has the training images."""
TEST_PARTS = ("test", "val")  # of several the first
CLASS_NAMES = "class_names"

_log = logging.getLogger("linft")


def load(path: str) -> Task:
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
