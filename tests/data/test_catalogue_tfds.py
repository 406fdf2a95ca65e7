"""Rows of the catalogue that TensorFlow Datasets has: their parts, joined or shared out."""

from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from archives import CLASSES, birds
from PIL import Image
from sklearn.datasets import load_digits

from linft.core.errors import LinftError
from linft.data import lazy
from linft.data.catalogue import prepared
from linft.data.catalogue.table import CATALOGUE, Tfds


class SmallFlowers(tfds.core.GeneratorBasedBuilder):
    """Scanned digits that stand in for a data set of TFDS with three parts."""

    VERSION = tfds.core.Version("1.0.0")
    SPLITS: ClassVar = {"train": (0, 20), "validation": (20, 40), "test": (40, 70)}

    def _info(self):
        label = tfds.features.ClassLabel(num_classes=10)
        image = tfds.features.Image(shape=(8, 8, 1))
        features = tfds.features.FeaturesDict({"image": image, "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(*ends) for split, ends in self.SPLITS.items()}

    def _generate_examples(self, start, end):
        for i in range(start, end):
            yield i, {"image": Image.fromarray(SCANS[i]), "label": int(load_digits().target[i])}


SCANS = np.round(load_digits().images * (255 / 16)).astype(np.uint8)


@pytest.fixture(scope="module")
def tfds_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    SmallFlowers(data_dir=root, file_format="array_record").download_and_prepare()
    return root


def numbers(images):
    """Which scans these are."""
    known = {scan.tobytes(): i for i, scan in enumerate(SCANS)}
    return {known[image.tobytes()] for image in images}


FLOWERS = {"classes": 10, "train": 40, "test": 30, "tfds": Tfds("small_flowers", "train+validation")}


def test_parts_of_tfds_are_joined_and_counted(tfds_root, home, small, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_root))
    assert prepared.where(small("flowers", **FLOWERS)) == tfds_root / "small_flowers" / "1.0.0"
    task = prepared.load("flowers")
    assert task.name == "flowers"
    assert numbers(task.x_train) == set(range(40)) and numbers(task.x_test) == set(range(40, 70))
    monkeypatch.setattr(lazy, "IN_MEMORY", 10)
    many = prepared.load("flowers")
    assert isinstance(many.x_train, lazy.LazyImages)
    assert numbers(many.x_train) == set(range(40)) and many.y_train.tolist() == task.y_train.tolist()
    small("flowers", **FLOWERS | {"train": 41})
    with pytest.raises(LinftError, match="has 40 train images, not 41; it must be all of Oxford Flowers 102"):
        prepared.load("flowers")


def test_shares_of_tfds_parts(tfds_root, home, small):
    split = Tfds("small_flowers", "train[:75%]+test[:75%]", "train[75%:]+test[75%:]")
    row = small("dtd-75", classes=10, tfds=split, train=15 + 22, test=5 + 8)
    index = prepared.prepare(row, tfds_root)
    assert index == home / "dtd-75" / prepared.INDEX
    task = prepared.load("dtd-75")
    train, test = numbers(task.x_train), numbers(task.x_test)
    assert not train & test and train | test == {*range(20), *range(40, 70)}


def test_rows_of_tfds_exist_there():
    known = set(tfds.list_builders(with_community_datasets=False))
    assert {row.tfds.name for row in CATALOGUE.values() if row.tfds} <= known


def test_archives_and_tfds_agree(photos, tfds_root, home, small, tmp_path):
    """Where there is both, whichever is on disk is read."""
    birds(tmp_path / "archive", photos)
    row = small("birds", tfds=Tfds("small_flowers"))
    prepared.prepare(row, tmp_path / "archive")
    assert prepared.load("birds").num_classes == len(CLASSES)
    small("birds", tfds=Tfds("small_flowers"), classes=10, train=20, test=30)
    prepared.prepare(CATALOGUE["birds"], tfds_root)
    assert prepared.load("birds").num_classes == 10
