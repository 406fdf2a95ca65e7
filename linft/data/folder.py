"""`folder:PATH`: a folder of images with a subfolder for each class, with or without a test part."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped, UInt8
from PIL import Image, ImageOps

from linft.data.lazy import IN_MEMORY, LazyImages
from linft.errors import LinftError
from linft.task import Task

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
TEST_FOLDERS = ("test", "val", "valid", "validation")  # the first that exists is the test part


def load(path: str) -> Task:
    """Read PATH/CLASS/*.jpg, or PATH/train/CLASS and PATH/test/CLASS, as RGB images of their own sizes.

    `val`, `valid` or `validation` stands for a missing `test`; without any of them the source rule
    of `Task.from_arrays` applies. Classes are the subfolders' names, sorted; other files than images
    and hidden ones are passed over. Up to `IN_MEMORY` images are held in memory; more stay in their
    files as `LazyImages`.

    Raises:
      LinftError: a missing folder, no class subfolders or one only, a class without images, a test
        part with other classes, or an image that Pillow cannot read as 8 bits a channel (when that
        image is reached, where they stay in their files).

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as root:
      ...     for name, grey in [("day", 255), ("night", 0)]:
      ...         (Path(root) / name).mkdir()
      ...         for i in range(4):
      ...             Image.new("L", (8, 6), grey).save(Path(root) / name / f"{i}.png")
      ...     task = load(root)
      >>> task.class_names, task.x_train.shape, task.y_test.tolist()
      (('day', 'night'), (6, 6, 8, 3), [0, 1])
    """
    root = Path(path)
    if not path or not root.is_dir():
        raise LinftError(f"no folder {path!r}; give the path of a folder of images after folder:")
    train = root / "train" if (root / "train").is_dir() else root
    test = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None) if train != root else None
    names = _classes(train)
    if len(names) < 2:
        raise LinftError(f"{train} has one class subfolder only, {names[0]!r}; a task needs two classes or more")
    parts = [_files(train, names)]
    if test is not None:
        _same_classes(names, _classes(test), test)
        parts.append(_files(test, names))
    images = in_memory if sum(len(files.names) for files, _ in parts) <= IN_MEMORY else lazy
    arrays = [array for files, labels in parts for array in (images(files), labels)]
    return Task.from_arrays(*arrays, name=root.resolve().name, class_names=names)


def _classes(part: Path) -> list[str]:
    names = sorted(entry.name for entry in part.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise LinftError(f"{part} has no subfolders; put the images of each class in a subfolder of its name")
    return names


def _same_classes(train: Sequence[str], test: Sequence[str], part: Path) -> None:
    if extra := sorted(set(test) - set(train)):
        raise LinftError(f"{part} has the class {', '.join(extra[:8])}, which the training part lacks")
    if absent := sorted(set(train) - set(test)):
        raise LinftError(f"{part} lacks the class {', '.join(absent[:8])} of the training part")


@dataclass(frozen=True, eq=False)
class Files:
    """The image files of a part: called with a number, it reads that one."""

    folder: str
    names: Shaped[np.ndarray, "n"] = field(repr=False)
    """CLASS/FILE in the file system's encoding, as one array: a million of them pickle in an instant."""

    def __call__(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        return _read(Path(self.folder, os.fsdecode(self.names[number])))


def _files(part: Path, classes: Sequence[str]) -> tuple[Files, Int[np.ndarray, "n"]]:
    """Files and labels of one part, class by class and sorted by file name within a class."""
    files, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(file for file in os.listdir(part / name) if _is_image(file))
        if not found:
            raise LinftError(f"{part / name} has no images ({', '.join(sorted(SUFFIXES))}); add some or remove it")
        files += [os.fsencode(f"{name}/{file}") for file in found]
        labels += [label] * len(found)
    return Files(str(part), np.array(files)), np.array(labels)


def _is_image(file: str) -> bool:
    return os.path.splitext(file)[1].lower() in SUFFIXES and file[0] != "."


def in_memory(files: Files) -> list[np.ndarray]:
    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter's lock
        return list(pool.map(files, range(len(files.names))))


def lazy(files: Files) -> LazyImages:
    return LazyImages(files, np.arange(len(files.names)))


def _read(file: Path) -> UInt8[np.ndarray, "h w 3"]:
    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":  # Pillow would clip them to white without a word
                raise LinftError(f"{file} has more than 8 bits a channel ({image.mode}); convert it to 8 bits")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise LinftError(f"{file} is not a readable image ({error}); repair or remove it") from None
