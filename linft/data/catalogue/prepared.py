"""`data:NAME`: a data set of the catalogue, checked against it and found by its name."""

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linft.core.errors import LinftError
from linft.core.task import Task
from linft.data import image_folder, tfds
from linft.data.catalogue.table import CATALOGUE, DataSet, Tfds
from linft.data.image_folder import Listing
from linft.data.lazy import held
from linft.runtime.atomic_files import whole

INDEX = "linft-data.json"
SHOWN = 3  # examples of what is wrong


def directory() -> Path:
    """Where prepared data sets are: LINFT_DATA_DIR, by default ~/.cache/linft/data."""
    return Path(os.environ.get("LINFT_DATA_DIR") or "~/.cache/linft/data").expanduser()


def named(name: str) -> DataSet:
    """The row of the catalogue.

    Raises:
      LinftError: there is none of that name.

    Example:
      >>> data = named("aircraft")
      >>> data.title, data.classes, data.train, data.test
      ('FGVC-Aircraft, by variant', 100, 6667, 3333)
    """
    if name not in CATALOGUE:
        raise LinftError(f"no data set {name!r} in the catalogue; give one of {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def where(row: DataSet) -> Path | None:
    """The folder of a data set's index, or of the version that TFDS has prepared; None where neither is on disk."""
    home = directory() / row.name
    if (home / INDEX).is_file():
        return home
    return _version(row, Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser())


def prepare(row: DataSet, source: Path, to: Path | None = None) -> Path:
    """Check a data set on disk against the catalogue and write an index, by which it is found: the index's path.

    The source is the folder of an unpacked archive, or one where TFDS has prepared the data set. The
    index names the images and their labels, part by part; the images stay where they are. It is
    written to `to`, by default the data set's folder in `directory()`, where `load` looks.

    Raises:
      LinftError: files that the archive should have are not there or not as they should be; other
        classes or counts than the catalogue has; an image that is listed twice, in one part or two,
        or is not on disk; an index that cannot be written.
    """
    if row.tfds and (version := _version(row, source)):
        _open(row, row.tfds, version)
        content = {"tfds": str(version.resolve())}
    else:
        root = source / row.folder if row.folder and (source / row.folder).is_dir() else source
        listing = _read(row, root)
        check(row, listing, root)
        content = {"root": str(root.resolve()), **_content(listing)}
    index = (to or directory() / row.name) / INDEX
    with whole(index) as partial:
        partial.write_text(json.dumps({"name": row.name, **content}))
    return index


def check(row: DataSet, listing: Listing, root: Path) -> None:
    """Hold what was found in a folder against the catalogue.

    Raises:
      LinftError: the first thing that is wrong, as `prepare` has it.
    """
    counts = {part: len(examples) for part, examples in listing.parts.items()}
    _check_counts(row, len(listing.classes), counts, str(root))
    examples = [path for part in listing.parts.values() for path, _ in part]
    if twice := [path for path, times in Counter(examples).items() if times > 1]:
        parts = [part for part, found in listing.parts.items() for path, _ in found if path == twice[0]]
        among = f"both in {parts[0]} and {parts[1]}" if parts[0] != parts[1] else f"twice in {parts[0]}"
        raise LinftError(f"{row.name}: {len(twice)} images are listed more than once, such as {twice[0]}, {among}")
    if absent := [path for path in examples if not (root / path).is_file()]:
        raise LinftError(
            f"{row.name}: {len(absent):,} of {len(examples):,} images are not in {root}, "
            f"such as {', '.join(absent[:SHOWN])}; unpack the archives again"
        )
    labels = {label for _, label in listing.parts["train"]}
    if empty := [name for label, name in enumerate(listing.classes) if label not in labels]:
        raise LinftError(f"{row.name}: no training image is of the class {', '.join(empty[:SHOWN])}")


def load(name: str) -> Task:
    """The task of a prepared data set: `data:NAME`, or `data:NAME@validation` to test on that part.

    Its index is looked for in `directory()`, else the data set where TFDS prepares data sets, with its
    counts checked. Images are held in memory if they fit in `lazy.IN_MEMORY` bytes; else they stay where they are.

    Raises:
      LinftError: a name that is not in the catalogue, a data set that is not on disk or not
        complete, an index that is damaged or a part that it has not.
    """
    name, _, part = name.partition("@")
    row = named(name)
    home = where(row)
    if home is None:
        raise LinftError(f"the data set {name} is not on disk; {_how(row)}")
    if not (home / INDEX).is_file():
        return _from_tfds(row, home, part)
    content = _index(home / INDEX)
    return _from_tfds(row, content, part) if isinstance(content, Path) else _from_files(row, content, part)


def download(name: str) -> None:
    """Have TFDS download and prepare a data set of the catalogue, unless it is on disk.

    Raises:
      LinftError: TFDS has not the data set, or cannot download it.
    """
    row = named(name.partition("@")[0])
    if where(row) is None:
        if row.tfds is None:
            raise LinftError(f"the data set {row.name} cannot be downloaded; {_how(row)}")
        tfds.download(row.tfds.name)


def _how(row: DataSet) -> str:
    """How a data set gets on disk."""
    if row.layout is None:
        return "have TFDS download it with --download (in Python: download=True)"
    archives = f"unpack {', '.join(row.archives)}" if row.archives else f"make {row.split}"
    return f"{archives} in a folder DIR and run linft data prepare {row.name} --from DIR"


def _read(row: DataSet, root: Path) -> Listing:
    if row.layout is None:
        raise LinftError(f"TFDS has not prepared {row.tfds and row.tfds.name} in {root}; {_how(row)}")
    try:
        return row.layout(root)
    except FileNotFoundError as error:
        raise LinftError(f"{row.name}: no {error.filename}; {_how(row)}") from None
    except (ValueError, LookupError, TypeError, OSError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise LinftError(
            f"{row.name}: the files in {root} are not those of {row.title} ({reason}); {_how(row)}"
        ) from None


@dataclass(frozen=True)
class Index:
    """What an index says: a root, and below it the images of each part with their labels."""

    root: str
    classes: list[str]
    parts: dict[str, tuple[list[str], list[int]]]


def _index(path: Path) -> Index | Path:
    """An index, or the folder of TFDS's version that it names."""
    try:
        content = json.loads(path.read_text())
        if "tfds" in content:
            return Path(content["tfds"])
        parts = {part: (list(found["images"]), list(found["labels"])) for part, found in content["parts"].items()}
        return Index(content["root"], list(content["classes"]), parts)
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise LinftError(f"{path} is damaged ({reason}); write it anew with linft data prepare") from None


def _content(listing: Listing) -> dict[str, Any]:
    parts = {
        part: {"images": [path for path, _ in examples], "labels": [label for _, label in examples]}
        for part, examples in listing.parts.items()
    }
    return {"classes": listing.classes, "parts": parts}


def _from_files(row: DataSet, index: Index, test: str) -> Task:
    if (test := test or "test") not in index.parts:
        raise LinftError(f"{row.name} has no part {test!r}; give one of {', '.join(index.parts)}")
    examples = {part: list(zip(*index.parts[of], strict=True)) for part, of in (("train", "train"), ("test", test))}
    return image_folder.listed(Path(index.root), Listing(tuple(index.classes), examples), row.name)


def _from_tfds(row: DataSet, version: Path, part: str) -> Task:
    if part or row.tfds is None:
        raise LinftError(f"{row.name} has no part {part!r}; TFDS gives it a training and a test part")
    builder = _open(row, row.tfds, version)
    train, test = (tfds.examples(builder, split) for split in (row.tfds.train, row.tfds.test))
    x_train, x_test = held(train[0], test[0])
    names = builder.info.features["label"].names
    return Task.from_arrays(x_train, train[1], x_test, test[1], name=row.name, class_names=names)


def _version(row: DataSet, root: Path) -> Path | None:
    """The newest version that TFDS has prepared in a folder, or the folder itself where it is one."""
    if row.tfds is None:
        return None
    if (root / tfds.PREPARED).is_file():
        return root
    found = sorted(root.glob(f"{row.tfds.name}/**/{tfds.PREPARED}"))
    return found[-1].parent if found else None


def _open(row: DataSet, source: Tfds, version: Path) -> Any:
    """TFDS's builder, the counts of whose parts are the catalogue's."""
    builder = tfds.open_builder(str(version.resolve()))
    splits = {"train": source.train, "test": source.test}
    counts = {part: builder.info.splits[split].num_examples for part, split in splits.items()}
    _check_counts(row, builder.info.features["label"].num_classes, counts, str(version))
    return builder


def _check_counts(row: DataSet, classes: int, counts: Mapping[str, int], place: str) -> None:
    expected = {"classes": row.classes} | {f"{part} images": number for part, number in row.expected.items()}
    found = {"classes": classes} | {f"{part} images": counts.get(part, 0) for part in row.expected}
    wrong = [
        f"{found[what]:,} {what}, not {number:,}"
        for what, number in expected.items()
        if number is not None and found[what] != number
    ]
    if wrong:
        raise LinftError(f"{row.name} in {place} has {' and '.join(wrong)}; it must be all of {row.title}: {row.split}")
