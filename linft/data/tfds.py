"""`tfds:NAME` or `tfds:/dir/NAME/1.0.0`: data sets prepared by TensorFlow Datasets, read without TensorFlow."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from linft.core.errors import LinftError
from linft.core.task import Task
from linft.data.lazy import Encoded, LazyImages, held

PREPARED = "dataset_info.json"  # the file that makes a folder a prepared data set


def load(name: str) -> Task:
    """Read the features `image` and `label` of a prepared data set, images as `decode` has them.

    Trains on `train` and tests on `test`, or on `validation` where there is no `test` or it has no
    labels (they are −1 there); without both the source rule of `Task.from_arrays` applies. A name is
    looked for in TFDS_DATA_DIR. Images are held in memory if all of them fit in `lazy.IN_MEMORY` bytes;
    else they stay in their records as `LazyImages`.

    Raises:
      LinftError: an unknown name, a data set that is not prepared or not as ArrayRecord, no training
        split, or other features than an image of 8 bits a channel and a class label.
    """
    import tensorflow_datasets as tfds  # takes a second, which no other source should pay

    builder = open_builder(name)
    if not builder.is_prepared():
        raise LinftError(
            f"the TFDS data set {name} is not prepared in {builder.data_dir}; download and prepare it "
            "with --download (in Python: download=True)"
        )
    features, splits = dict(builder.info.features or {}), builder.info.splits
    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    if not all(isinstance(features.get(feature), kind) for feature, kind in kinds.items()):
        raise LinftError(
            f"the TFDS data set {name} has the features {', '.join(features)}; a task needs an image and a class label"
        )
    if features["image"].np_dtype != np.uint8:
        depth = np.dtype(features["image"].np_dtype).name
        raise LinftError(f"the TFDS data set {name} has images of {depth}; they must be uint8")
    if "train" not in splits:
        raise LinftError(f"the TFDS data set {name} has no split train, only {', '.join(splits)}")
    parts = [examples(builder, "train")]
    for split in ("test", "validation"):
        if split in splits and len(parts) == 1:
            parts += [part for part in [examples(builder, split)] if part[1][0] >= 0]
    images = held(*(part[0] for part in parts))
    both = [array for x, (_, y) in zip(images, parts, strict=True) for array in (x, y)]
    return Task.from_arrays(*both, name=builder.info.name, class_names=features["label"].names)


def download(name: str) -> None:
    """Download a named data set and prepare it in TFDS_DATA_DIR, unless that is done already."""
    builder = open_builder(name, file_format="array_record")
    try:
        builder.download_and_prepare()
    except Exception as error:  # every data set runs code of its own, which may raise anything
        raise LinftError(f"could not download and prepare the TFDS data set {name}: {_first_line(error)}") from error


def open_builder(name: str, **options: Any) -> Any:
    import tensorflow_datasets as tfds

    prepared = (Path(name) / PREPARED).is_file()
    if os.path.isabs(name) and not prepared:
        raise LinftError(f"{name} has no {PREPARED}; give the folder of a prepared version, such as NAME/1.0.0")
    try:
        # The environment is read here: TFDS itself looks at it only when first imported.
        return (
            tfds.builder_from_directory(name)
            if prepared
            else tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR") or None, **options)
        )
    except (ValueError, AssertionError, ImportError) as error:
        raise LinftError(f"cannot open the TFDS data set {name!r}: {_first_line(error)}") from None


def examples(builder: Any, split: str) -> tuple[LazyImages, Int[np.ndarray, "n"]]:
    """The images of a split, none of which is decoded, and their labels."""
    directory, mode = str(builder.data_dir), "L" if builder.info.features["image"].shape[-1] == 1 else "RGB"
    with _readable(f"the split {split} in {directory}"):
        labels = np.array([_features(record)["label"].int64_list.value[0] for record in _source(builder, split)])
    return LazyImages(Records(directory, split, mode), np.arange(len(labels))), labels


@dataclass(frozen=True)
class Records(Encoded):
    """The images of a split."""

    directory: str
    """Of the prepared version, from which every process opens the data set for itself."""
    split: str
    mode: Literal["RGB", "L"] = "RGB"

    def encoded(self, number: int) -> bytes:
        with _readable(self.name(number)):
            return _features(_open(self.directory, self.split)[number])["image"].bytes_list.value[0]

    def name(self, number: int) -> str:
        return f"image {number} of the split {self.split} in {self.directory}"


@lru_cache(maxsize=4)
def _open(directory: str, split: str) -> Any:
    return _source(open_builder(directory), split)


def _source(builder: Any, split: str) -> Any:
    """The records of a split, as bytes: to have all features decoded would take 50 times as long."""
    import tensorflow_datasets as tfds

    try:
        return builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    except NotImplementedError:
        raise LinftError(
            f"the TFDS data set {builder.info.name} in {builder.data_dir} is prepared as "
            f"{builder.info.file_format.value}, which only TensorFlow reads; "
            'prepare it in another folder with file_format="array_record"'
        ) from None


def _features(record: bytes) -> Any:
    from tensorflow_datasets.proto import tf_example_pb2  # tfds.decode would have TensorFlow parse it

    return tf_example_pb2.Example.FromString(record).features.feature  # pyright: ignore


@contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except LinftError:
        raise
    except Exception as error:  # the readers' errors have no common kind
        raise LinftError(f"cannot read {what} ({_first_line(error)}); prepare the data set anew") from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
