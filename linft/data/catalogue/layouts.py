"""Readers of the folders that official archives unpack to: which image is in which class and part."""

import errno
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linft.core.errors import LinftError
from linft.data.image_folder import Examples, Listing, find

Split = Callable[[Sequence[int]], dict[str, Sequence[int]]]


Layout = Callable[[Path], Listing]
"""Reads a root; a FileNotFoundError names what is not there, a ValueError or LookupError what is not as it should."""


def train_and_test(root: Path) -> Listing:
    """train/CLASS/IMAGE and test/CLASS/IMAGE, as `image_folder.find` has it: for archives of no fixed layout."""
    _glob(root, "*/*/*")
    try:
        found = find(root)
    except LinftError as error:
        raise ValueError(str(error)) from None
    if "test" not in found.parts:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(root / "test/*/*"))
    return found


def pooled(root: Path, pattern: str, split: Split, without: str = "", drop: str = "") -> Listing:
    """All images that match, in the class of the first folder with a star; `split` says which are train and test.

    Folders named `without` are passed over; what the regular expression `drop` matches at the start
    of a folder's name is no part of the class's name.
    """
    depth = next(i for i, name in enumerate(pattern.split("/")) if "*" in name)
    folder = {path: path.split("/")[depth] for path in _glob(root, pattern)}
    folders = sorted(set(folder.values()) - {without})
    paths = [path for path, name in folder.items() if name != without]
    labels = [folders.index(folder[path]) for path in paths]
    chosen = split(labels)
    parts = {part: [(paths[i], labels[i]) for i in indices] for part, indices in chosen.items()}
    return Listing(tuple(re.sub(f"^({drop})", "", name) for name in folders), parts)


def listed(root: Path, images: str, train: str, test: str) -> Listing:
    """A text file for each part, a line the path of an image below `images`; the class is the image's folder."""
    lists = {"train": train, "test": test}
    return _by_folder(
        {part: [f"{images}/{line}" for line in _lines(root / file)] for part, file in lists.items()}, images
    )


def aircraft(root: Path) -> Listing:
    """FGVC-Aircraft: data/variants.txt, and data/images_variant_{trainval,test}.txt with lines ID VARIANT."""
    variants = _lines(root / "data/variants.txt")
    parts = {}
    for part, file in (("train", "trainval"), ("test", "test")):
        pairs = [line.split(" ", 1) for line in _lines(root / f"data/images_variant_{file}.txt")]
        parts[part] = [(f"data/images/{number}.jpg", variants.index(variant)) for number, variant in pairs]
    return Listing(tuple(variants), parts)


def birds(root: Path) -> Listing:
    """CUB-200-2011: classes.txt, images.txt, image_class_labels.txt, train_test_split.txt; lines NUMBER VALUE."""
    tables = ("classes", "images", "image_class_labels", "train_test_split")
    names, images, classes, train = (dict(line.split(" ", 1) for line in _lines(root / f"{t}.txt")) for t in tables)
    numbers = list(names)
    parts: dict[str, Examples] = {"train": [], "test": []}
    for image, path in images.items():
        part = "train" if train[image] == "1" else "test"
        parts[part].append((f"images/{path}", numbers.index(classes[image])))
    return Listing(tuple(re.sub(r"^\d+\.", "", name) for name in names.values()), parts)


def dogs(root: Path) -> Listing:
    """Stanford Dogs: train_list.mat and test_list.mat with a cell file_list of FOLDER/FILE; Images/."""
    files = {part: _cell(root / f"{part}_list.mat", "file_list") for part in ("train", "test")}
    return _by_folder({part: [f"Images/{file}" for file in found] for part, found in files.items()}, drop=r"n\d+-")


def cars(root: Path) -> Listing:
    """Stanford Cars: devkit/cars_{meta,train_annos}.mat, cars_test_annos_withlabels.mat; cars_train/, cars_test/."""
    names = _cell(root / "devkit/cars_meta.mat", "class_names")
    files = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
    parts = {}
    for part, file in files.items():
        rows = _cell(root / file, "annotations")
        parts[part] = [(f"cars_{part}/{row['fname']}", int(row["class"]) - 1) for row in rows]
    return Listing(tuple(map(str, names)), parts)


def coco(root: Path, train: str, test: str) -> Listing:
    """COCO's JSON, one file a part: images with a file_name, one annotation with a category_id for each."""
    names: dict[int, str] = {}
    parts = {}
    for part, file in (("train", train), ("test", test)):
        content = json.loads((root / file).read_text(encoding="utf-8"))
        names |= {category["id"]: str(category["name"]) for category in content["categories"]}
        path = {image["id"]: image["file_name"] for image in content["images"]}
        parts[part] = [(path[note["image_id"]], note["category_id"]) for note in content["annotations"]]
    numbers = {category: label for label, category in enumerate(sorted(names))}
    labelled = {part: [(path, numbers[category]) for path, category in pairs] for part, pairs in parts.items()}
    return Listing(tuple(names[category] for category in sorted(names)), labelled)


def relevance(root: Path, images: str, relevant: str, split: Split) -> Listing:
    """European Flood 2013: a list of the identifiers of relevant images; all others are of the first class."""
    paths = _glob(root, f"{images}/*.jpg")
    known = set(_lines(root / relevant))
    labels = [int(Path(path).stem in known) for path in paths]
    parts = {part: [(paths[i], labels[i]) for i in indices] for part, indices in split(labels).items()}
    name = Path(relevant).stem
    return Listing((f"no {name}", name), parts)


def stratified(labels: Sequence[int], test: float) -> dict[str, Sequence[int]]:
    """A share of the images as the test part, rounded up and drawn with seed 0, classes in proportion."""
    from sklearn.model_selection import train_test_split  # takes a second

    train, held = train_test_split(np.arange(len(labels)), test_size=test, random_state=0, stratify=labels)
    return {"train": np.sort(train).tolist(), "test": np.sort(held).tolist()}


def first(labels: Sequence[int], train: int, validation: int) -> dict[str, Sequence[int]]:
    """Of each class the first images by name train, the next validate and the rest test.

    Example:
      >>> first([0, 1, 0, 1, 0, 1], train=1, validation=1)
      {'train': [0, 1], 'validation': [2, 3], 'test': [4, 5]}
    """
    return _counted(labels, np.arange(len(labels)), train, validation)


def drawn(labels: Sequence[int], train: int) -> dict[str, Sequence[int]]:
    """Of each class so many images, drawn with seed 0, train and the rest test."""
    return _counted(labels, np.random.default_rng(0).permutation(len(labels)), train, 0)


def _counted(labels: Sequence[int], order: np.ndarray, train: int, validation: int) -> dict[str, Sequence[int]]:
    ends = {"train": (0, train), "validation": (train, train + validation), "test": (train + validation, None)}
    of_class = [order[np.asarray(labels)[order] == c] for c in range(max(labels) + 1)]
    parts = {part: np.concatenate([found[slice(*end)] for found in of_class]) for part, end in ends.items()}
    return {part: np.sort(chosen).tolist() for part, chosen in parts.items() if len(chosen)}


def _by_folder(paths: dict[str, list[str]], below: str = "", drop: str = "") -> Listing:
    """Images whose class is their folder, named by its path below another where that is not unique by itself."""
    folder = {path: os.path.dirname(path) for found in paths.values() for path in found}
    name = {d: os.path.relpath(d, below) if below else os.path.basename(d) for d in set(folder.values())}
    classes = sorted(set(name.values()))
    label = {d: classes.index(name[d]) for d in name}
    parts = {part: [(path, label[folder[path]]) for path in found] for part, found in paths.items()}
    return Listing(tuple(re.sub(f"^({drop})", "", c) for c in classes), parts)


def _glob(root: Path, pattern: str) -> list[str]:
    """Paths below the root, sorted, without hidden files."""
    found = sorted(path.relative_to(root).as_posix() for path in root.glob(pattern) if path.name[0] != ".")
    if not found:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(root / pattern))
    return found


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _cell(file: Path, name: str) -> Iterable[Any]:
    """A cell or struct array of a MATLAB file, flat."""
    from scipy.io import loadmat

    if not file.is_file():  # loadmat would look for it elsewhere
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
    return np.ravel(loadmat(str(file), simplify_cells=True)[name])
