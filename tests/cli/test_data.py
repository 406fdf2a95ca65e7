"""`linft data` as a user types it."""

import sys
import zipfile
from dataclasses import replace

import pytest

from linft.cli.main import main
from linft.data.catalogue import prepared
from linft.data.catalogue.table import CATALOGUE


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("LINFT_DATA_DIR", str(tmp_path / "home"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["linft", "data", *map(str, arguments)])
        main()
        return capsys.readouterr().out

    return call


@pytest.fixture
def ants_and_bees(shared, tmp_path):
    """Photographs as a data set whose folders one makes by hand."""
    with zipfile.ZipFile(shared / "data" / "hymenoptera_photos.zip") as file:
        file.extractall(tmp_path)
    return tmp_path / "hymenoptera"


def line(text, name):
    (found,) = (line for line in text.splitlines() if line.split()[:1] == [name])
    return found


def test_list_has_every_data_set_with_what_the_papers_state(call):
    text = call("list")
    for name, data in CATALOGUE.items():
        cells = line(text, name)
        assert data.title in cells and cells.rstrip().endswith(" no")
        assert all(f" {count:,} " in cells for count in (data.classes, data.train, data.test) if count is not None)
    assert "tfds:oxford_flowers102" in line(text, "flowers")
    assert "tfds:cars196 or cars_train.tgz" in line(text, "cars")
    assert line(text, "dtd:").startswith(
        "dtd: Plested and others 2021, section 3.1; cite Cimpoi and others 2014; 3,760 "
    )


def test_prepared_data_is_listed_and_loaded_by_its_name(call, ants_and_bees, monkeypatch, tmp_path):
    counts = {"classes": 2, "train": 64, "test": 32}
    monkeypatch.setitem(CATALOGUE, "belga", replace(CATALOGUE["belga"], **counts))
    index = tmp_path / "home" / "belga" / "linft-data.json"
    said = call("prepare", "belga", "--from", ants_and_bees)
    assert said == f"BelgaLogos: 2 classes, 64 training and 32 test images; the index is {index}\n"
    text = call("list")
    assert line(text, "belga").rstrip().endswith(" yes")
    assert line(text, "belga:").endswith(f"; on disk in {index.parent}")
    task = prepared.load("belga")
    assert (task.class_names, len(task.y_train), len(task.y_test)) == (("ants", "bees"), 64, 32)


def test_prepare_elsewhere(call, ants_and_bees, monkeypatch, tmp_path):
    monkeypatch.setitem(CATALOGUE, "belga", replace(CATALOGUE["belga"], classes=2, train=None, test=None))
    said = call("prepare", "belga", "--from", ants_and_bees, "--to", tmp_path / "here")
    assert "all training and all test images" in said
    assert (tmp_path / "here" / "linft-data.json").is_file() and not (tmp_path / "home").exists()


BAD = {
    "unknown": (["prepare", "zebras", "--from", "."], "no data set 'zebras' in the catalogue; give one of flowers,"),
    "counts": (["prepare", "belga", "--from", "{photos}"], "has 2 classes, not 27 and 64 train images, not 7,500 and"),
    "no archive": (
        ["prepare", "cars", "--from", "{photos}"],
        "hymenoptera/devkit/cars_meta.mat; unpack cars_train",
    ),
    "not by tfds": (["prepare", "pets", "--from", "{photos}"], "TFDS has not prepared oxford_iiit_pet in "),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case, call, ants_and_bees, capsys):
    arguments, message = BAD[case]
    with pytest.raises(SystemExit) as caught:
        call(*(argument.format(photos=ants_and_bees) for argument in arguments))
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert said.startswith("linft: ") and said.count("\n") == 1 and message in said
