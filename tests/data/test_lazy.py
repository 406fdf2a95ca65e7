"""What is known of images without having them in memory: their digest, and whether they would fit."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from linft.core.trees import digest
from linft.data import lazy
from linft.data.lazy import LazyImages, in_memory
from linft.data.load import load_task

SCANS = np.round(load_digits().images * (255 / 16)).astype(np.uint8)


def written(root, scans):
    for i, scan in enumerate(scans):
        path = root / "ab"[i % 2] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scan).save(path)
    return root


@pytest.fixture
def nothing_fits(monkeypatch):
    monkeypatch.setattr(lazy, "IN_MEMORY", 0)


def test_a_digest_is_of_the_images_and_their_order(tmp_path, nothing_fits):
    one, two = (load_task(f"folder:{written(tmp_path / name, SCANS[:40])}") for name in ("one", "two"))
    first, same = one.x_train, two.x_train
    assert isinstance(first, LazyImages) and first.digest == same.digest
    changed = SCANS[:40].copy()
    changed[4, 3, 3] ^= 1  # in one of the parts
    other = load_task(f"folder:{written(tmp_path / 'three', changed)}")
    assert (first.digest, one.x_test.digest) != (other.x_train.digest, other.x_test.digest)
    assert len({first.digest, first[::-1].digest, first[1:].digest, first[:0].digest}) == 4
    assert digest((first, np.arange(3))) == digest((same, np.arange(3))) != digest((same[1:], np.arange(3)))


def test_a_digest_without_files_is_of_the_pixels():
    images = LazyImages(SCANS[:600, ..., None].__getitem__, np.arange(600))  # in several blocks
    other = SCANS[:600, ..., None].copy()
    other[500, 0, 0] ^= 1
    assert images.digest == LazyImages(list(SCANS[:600, ..., None]).__getitem__, np.arange(600)).digest
    assert images.digest != LazyImages(other.__getitem__, np.arange(600)).digest


def test_files_are_read_once_for_a_digest(tmp_path, nothing_fits):
    images = load_task(f"folder:{written(tmp_path, SCANS[:8])}").x_train
    before = images.digest
    for file in tmp_path.rglob("*.png"):
        file.unlink()
    assert images.digest == before


def test_a_sample_that_fits_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(lazy, "IN_MEMORY", 12 * 8 * 8 * 3)
    task = load_task(f"folder:{written(tmp_path, SCANS[:40])}")
    few, more = in_memory(task.subset(8, 4)), in_memory(task.subset(8, 5))
    assert isinstance(more.x_train, LazyImages) and isinstance(more.x_test, LazyImages)
    np.testing.assert_array_equal(few.x_train, list(task.subset(8, 4).x_train))
    assert isinstance(few.x_train, list) and isinstance(few.x_test, list)
    assert in_memory(few) is not None and in_memory(few).x_train is few.x_train
