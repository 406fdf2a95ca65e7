"""`npz:PATH`: an .npz file with x_train, y_train, x_test, y_test and maybe class_names."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from linft.errors import LinftError
from linft.task import Task


def load(path: str) -> Task:
    """Read the arrays; without x_test the source rule of `Task.from_arrays` applies."""
    if not Path(path).is_file():
        raise LinftError(f"no file {path}; give the path of an .npz file after npz:")
    try:
        with open(path, "rb") as data, np.load(data, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name in _NAMES}
    except (ValueError, TypeError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise LinftError(f"{path} is not a readable .npz file of plain arrays ({error})") from None
    missing = [name for name in ("x_train", "y_train") if name not in arrays]
    if missing:
        raise LinftError(f"{path} lacks {', '.join(missing)}; it needs x_train, y_train, x_test, y_test")
    names = arrays.pop("class_names", None)
    return Task.from_arrays(**arrays, name=Path(path).stem, class_names=None if names is None else names.tolist())


_NAMES = ("x_train", "y_train", "x_test", "y_test", "class_names")
