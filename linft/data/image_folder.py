"""`folder:PATH`: images below a folder, their classes and parts found as torchvision's ImageFolder finds them."""

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
from jaxtyping import Shaped

from linft.core.errors import LinftError
from linft.core.names import printable
from linft.core.task import Task
from linft.data.lazy import Encoded, LazyImages, held

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".webp"}
)
# In capitals or not; of several the first.
TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")

Examples = list[tuple[str, int]]

_log = logging.getLogger("linft")


@dataclass(frozen=True)
class Listing:
    """Images on disk: their classes, and for each part their paths, below the root, with labels."""

    classes: tuple[str, ...]
    parts: dict[str, Examples]


def load(path: str) -> Task:
    """Read the images that `find` finds below PATH, as RGB images of their own sizes.

    Without a test part the source rule of `Task.from_arrays` applies. Images are held in memory if all
    of them fit in `lazy.IN_MEMORY` bytes; else they stay in their files as `LazyImages`.

    Raises:
      LinftError: a missing folder, one that `find` refuses, or an image that `decode`
        refuses (when that image is reached, where they stay in their files).

    Example:
      >>> import tempfile
      >>> from PIL import Image
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
    return listed(root, find(root), root.resolve().name)


def listed(root: Path, listing: Listing, name: str) -> Task:
    """The task of images on disk: of the part `train` and, if there is one, of `test`."""
    parts = [listing.parts[part] for part in ("train", "test") if part in listing.parts]
    files = [Files(str(root), np.array([os.fsencode(path) for path, _ in part])) for part in parts]
    images = held(*(LazyImages(of_part, np.arange(len(of_part.names))) for of_part in files))
    labels = [np.array([label for _, label in part]) for part in parts]
    both = [array for pair in zip(images, labels, strict=True) for array in pair]
    return Task.from_arrays(*both, name=name, class_names=listing.classes)


@dataclass(frozen=True, eq=False)
class Files(Encoded):
    """Image files below a folder."""

    folder: str
    names: Shaped[np.ndarray, "n"] = field(repr=False)
    """Paths in the file system's encoding, as one array: a million of them pickle in an instant."""

    def encoded(self, number: int) -> bytes:
        try:
            return Path(self.name(number)).read_bytes()
        except OSError as error:
            raise LinftError(
                f"{self.name(number)} is not a readable image ({error.strerror}); repair or remove it"
            ) from None

    def name(self, number: int) -> str:
        return os.path.join(self.folder, os.fsdecode(self.names[number]))


def find(root: Path) -> Listing:
    """CLASS/IMAGE, or PART/CLASS/IMAGE with `TRAIN_FOLDERS` and `TEST_FOLDERS`; images at any depth in their class.

    Classes are the folders' names in one Unicode spelling (NFC), sorted. Images are the files of
    `SUFFIXES`, those of a class sorted by folder and name; links are followed. What is passed over is
    counted and logged: hidden files, those that are no images or beside the class folders, other parts.

    Raises:
      LinftError: a folder that cannot be read, no class folders or one only, a class without images,
        or a test part with other classes.

    Example:
      >>> import tempfile
      >>> root = Path(tempfile.mkdtemp())
      >>> for file in ("day/noon.jpg", "night/moon/full.JPG", "night/new.png"):
      ...     (root / file).parent.mkdir(parents=True, exist_ok=True)
      ...     (root / file).touch()
      >>> find(root).parts
      {'train': [('day/noon.jpg', 0), ('night/new.png', 1), ('night/moon/full.JPG', 1)]}
    """
    passed: Counter[str] = Counter()
    places = _places(root, passed)
    folders = {part: _classes(place, passed) for part, place in places.items()}
    names = sorted(folders["train"])
    if len(names) < 2:
        raise LinftError(f"{places['train']} has one class subfolder only, {names[0]!r}; a task needs two or more")
    parts: dict[str, Examples] = {}
    for part, place in places.items():
        _same_classes(names, folders[part], place)
        of_class = [_of_class(place / folders[part][name], passed) for name in names]
        parts[part] = [(os.path.relpath(file, root), i) for i, files in enumerate(of_class) for file in files]
    if any(passed.values()):
        _log.warning("%s: passed over %s", printable(root), _told(passed))
    return Listing(tuple(names), parts)


def _places(root: Path, passed: Counter[str]) -> dict[str, Path]:
    """The folder of each part; where none is called as parts are and has class folders, the root is for training."""
    here, called = _subfolders(root), {*TRAIN_FOLDERS, *TEST_FOLDERS}
    parts = [name for name in here if name.casefold() in called and _subfolders(root / name)]
    train, test = (_first(root, parts, names) for names in (TRAIN_FOLDERS, TEST_FOLDERS))
    if train is None and test is not None:
        raise LinftError(f"{root / test} has class folders, but no {' or '.join(TRAIN_FOLDERS)} beside it has; add it")
    if train is None and here and called.issuperset(map(str.casefold, here)):
        raise LinftError(f"{root / here[0]} has no subfolders; put the images of each class in a subfolder of its name")
    if train is None:
        return {"train": root}
    for other in here:
        if other not in (train, test):
            passed[f"images in {other}"] += len(_images(root / other, Counter()))
    return {"train": root / train} | ({} if test is None else {"test": root / test})


def _first(root: Path, parts: Collection[str], names: Collection[str]) -> str | None:
    for name in names:
        found = [part for part in parts if part.casefold() == name]
        if len(found) > 1:
            raise LinftError(f"{root} has the folders {' and '.join(found)}; keep one of them")
        if found:
            return found[0]
    return None


def _classes(place: Path, passed: Counter[str]) -> dict[str, str]:
    """Class name -> folder."""
    folders: dict[str, str] = {}
    for folder in _subfolders(place):
        name = unicodedata.normalize("NFC", folder)
        if name in folders:
            raise LinftError(f"{place} has two folders called {name}, in two Unicode spellings; keep one of them")
        folders[name] = folder
    if not folders:
        raise LinftError(f"{place} has no subfolders; put the images of each class in a subfolder of its name")
    for entry in _entries(place):
        if _hidden(entry.name):
            passed["hidden"] += 1
        elif not entry.is_dir():
            passed["beside the class folders"] += 1
    return folders


def _same_classes(train: Collection[str], test: Collection[str], part: Path) -> None:
    if extra := sorted(set(test) - set(train)):
        raise LinftError(f"{part} has the class {', '.join(extra[:8])}, which the training part lacks")
    if absent := sorted(set(train) - set(test)):
        raise LinftError(f"{part} lacks the class {', '.join(absent[:8])} of the training part")


def _of_class(folder: Path, passed: Counter[str]) -> list[str]:
    besides: Counter[str] = Counter()
    images = _images(folder, besides)
    if not images:
        only = f", only {_told(besides)}" if any(besides.values()) else ""
        raise LinftError(f"{folder} has no images ({', '.join(sorted(SUFFIXES))}){only}; add some or remove it")
    passed.update(besides)
    return images


def _images(folder: Path, passed: Counter[str]) -> list[str]:
    """Image files at any depth, sorted by folder, then by name."""
    found = []
    for place, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        visible = [name for name in folders if not _hidden(name)]
        passed["hidden"] += len(folders) - len(visible)
        folders[:] = [name for name in visible if not _leads_back(place, name)]
        passed["links in a circle"] += len(visible) - len(folders)
        found.append((place, sorted(files)))
    images = []
    for place, files in sorted(found):
        for file in files:
            suffix = os.path.splitext(file)[1].lower()
            if _hidden(file):
                passed["hidden"] += 1
            elif suffix in SUFFIXES:
                images.append(os.path.join(place, file))
            else:
                passed[f"{suffix} files" if suffix else "files without a suffix"] += 1
    return images


def _leads_back(place: str, name: str) -> bool:
    link = os.path.join(place, name)
    return os.path.islink(link) and f"{os.path.realpath(place)}/".startswith(f"{os.path.realpath(link)}/")


def _subfolders(place: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(place) if entry.is_dir() and not _hidden(entry.name))


def _entries(place: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            return list(entries)
    except OSError as error:
        _refuse(error)


def _refuse(error: OSError) -> NoReturn:
    raise LinftError(f"cannot read {error.filename} ({error.strerror}); its permissions must allow it") from None


def _hidden(name: str) -> bool:
    return name[0] == "."


def _told(passed: Counter[str]) -> str:
    return ", ".join(f"{what} ({count})" for what, count in passed.items() if count)
