"""`tfds:NAME` or `tfds:/dir/NAME/1.0.0`: data sets prepared by TensorFlow Datasets, read without TensorFlow."""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from linft.data.lazy import IN_MEMORY, LazyImages
from linft.errors import LinftError
from linft.task import Task

PREPARED = "dataset_info.json"  # the file that makes a folder a prepared data set


def load(name: str) -> Task:
    """Read the features `image` and `label` of a prepared data set.

    Trains on `train` and tests on `test`, or on `validation` where there is no `test` or it has no
    labels (they are −1 there); without both the source rule of `Task.from_arrays` applies. A name is
    looked for in TFDS_DATA_DIR. Up to `IN_MEMORY` images are held in memory; more stay in their
    records as `LazyImages`, and only the labels are read, which takes one pass over the records.

    Raises:
      LinftError: an unknown name, a data set that is not prepared or not as ArrayRecord, no training
        split, or other features than an image and a class label.
    """
    import tensorflow_datasets as tfds  # takes a second, which no other source should pay

    builder = open_builder(name)
    if not builder.is_prepared():
        raise LinftError(
            f"the TFDS data set {name} is not prepared in {builder.data_dir}; download and prepare it "
            "with --download (in Python: download=True)"
        )
    features, splits = dict(builder.info.features or {}), builder.info.splits
    if "image" not in features or not isinstance(features.get("label"), tfds.features.ClassLabel):
        raise LinftError(
            f"the TFDS data set {name} has the features {', '.join(features)}; a task needs an image and a class label"
        )
    if "train" not in splits:
        raise LinftError(f"the TFDS data set {name} has no split train, only {', '.join(splits)}")
    tests = [split for split in ("test", "validation") if split in splits]
    labelled = [split for split in tests if _source(builder, split)[0]["label"] >= 0]
    parts = ["train", *labelled[:1]]
    arrays = in_memory if sum(splits[part].num_examples for part in parts) <= IN_MEMORY else lazy
    both = [array for part in parts for array in arrays(builder, part)]
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


def _source(builder: Any, split: str, **options: Any) -> Any:
    try:
        return builder.as_data_source(split, **options)
    except NotImplementedError:
        raise LinftError(
            f"the TFDS data set {builder.info.name} in {builder.data_dir} is prepared as "
            f"{builder.info.file_format.value}, which only TensorFlow reads; "
            'prepare it in another folder with file_format="array_record"'
        ) from None


def in_memory(builder: Any, split: str) -> tuple[list[np.ndarray], Int[np.ndarray, "n"]]:
    source = _source(builder, split)
    images, labels = zip(*((example["image"], example["label"]) for example in source), strict=True)
    return list(images), np.array(labels)


def lazy(builder: Any, split: str) -> tuple[LazyImages, Int[np.ndarray, "n"]]:
    import tensorflow_datasets as tfds

    # Decoding all but the image would still take 50 times as long as reading.
    examples = _source(builder, split, deserialize_method=tfds.decode.DeserializeMethod.DESERIALIZE_NO_DECODE)
    labels = np.array([example.features.feature["label"].int64_list.value[0] for example in examples])
    return LazyImages(Records(str(builder.data_dir), split), np.arange(len(labels))), labels


@dataclass(frozen=True)
class Records:
    """The images of a split: called with a number, it reads that one."""

    directory: str
    """Of the prepared version, from which every process opens the data set for itself."""
    split: str

    def __call__(self, number: int) -> UInt8[np.ndarray, "_ _ _"]:
        try:
            return _open(self.directory, self.split)[number]["image"]
        except Exception as error:  # the reader's and the decoders' errors have no common kind
            raise LinftError(
                f"cannot read image {number} of the split {self.split} in {self.directory} "
                f"({_first_line(error)}); prepare the data set anew"
            ) from None


@lru_cache(maxsize=4)
def _open(directory: str, split: str) -> Any:
    return _source(open_builder(directory), split)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
