"""Photographs to make archives of, a catalogue whose rows are as small, and a memory that few images fit in."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from archives import CLASSES, COUNTS, NUMBER
from PIL import Image

from linft.data import lazy
from linft.data.catalogue.table import CATALOGUE


@pytest.fixture(scope="session")
def photos(shared):
    """The JPEG bytes of a photograph, by class and number."""
    with zipfile.ZipFile(shared / "data" / "ucmerced_photos.zip") as file:
        names = sorted(file.namelist())
        found = {c: [n for n in names if f"/train/{c}/" in n and n.endswith(".jpg")][:NUMBER] for c in CLASSES}
        return {(c, i): file.read(name) for c in CLASSES for i, name in enumerate(found[c])}


@pytest.fixture(scope="session")
def pictures(photos):
    """Which photograph an array is."""
    return {np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).tobytes(): key for key, data in photos.items()}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LINFT_DATA_DIR", str(tmp_path / "home"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "home"


@pytest.fixture
def small(monkeypatch):
    """Puts a row with the counts of a small copy into the catalogue."""

    def small(name, **changes):
        row = replace(CATALOGUE[name], **COUNTS | changes)
        monkeypatch.setitem(CATALOGUE, name, row)
        return row

    return small


@pytest.fixture
def few_fit(monkeypatch):
    """Makes a task hold no more in memory than 4 scans in colour."""
    monkeypatch.setattr(lazy, "IN_MEMORY", 4 * 8 * 8 * 3)
