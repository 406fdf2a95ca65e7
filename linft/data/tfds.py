"""`tfds:NAME` or `tfds:/dir/NAME/1.0.0`: data sets prepared by TensorFlow Datasets, read without TensorFlow."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from linft.errors import LinftError
from linft.task import Task

PREPARED = "dataset_info.json"  # the file that makes a folder a prepared data set


def load(name: str) -> Task:
    """Read the features `image` and `label` of a prepared data set into memory.

    Trains on `train` and tests on `test`, or on `validation` where there is no `test` or it has no
    labels (they are −1 there); without both the source rule of `Task.from_arrays` applies. A name is
    looked for in TFDS_DATA_DIR.

    Raises:
      LinftError: an unknown name, a data set that is not prepared or not as ArrayRecord, no training
        split, or other features than an image and a class label.
    """
    import tensorflow_datasets as tfds  # takes a second, which no other source should pay

    builder = _builder(name)
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
    sources = [_source(builder, split) for split in ("test", "validation") if split in splits]
    labelled = [source for source in sources if source[0]["label"] >= 0]
    parts = _arrays(_source(builder, "train")) + (_arrays(labelled[0]) if labelled else ())
    return Task.from_arrays(*parts, name=builder.info.name, class_names=features["label"].names)


def download(name: str) -> None:
    """Download a named data set and prepare it in TFDS_DATA_DIR, unless that is done already."""
    builder = _builder(name, file_format="array_record")
    try:
        builder.download_and_prepare()
    except Exception as error:  # every data set runs code of its own, which may raise anything
        raise LinftError(f"could not download and prepare the TFDS data set {name}: {_first_line(error)}") from error


def _builder(name: str, **options: Any) -> Any:
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


def _source(builder: Any, split: str) -> Any:
    try:
        return builder.as_data_source(split)
    except NotImplementedError:
        raise LinftError(
            f"the TFDS data set {builder.info.name} in {builder.data_dir} is prepared as "
            f"{builder.info.file_format.value}, which only TensorFlow reads; "
            'prepare it in another folder with file_format="array_record"'
        ) from None


def _arrays(source: Any) -> tuple[list[np.ndarray], np.ndarray]:
    images, labels = zip(*((example["image"], example["label"]) for example in source), strict=True)
    return list(images), np.array(labels)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
