"""Every official layout is read in small copies made of real photographs; whatever is amiss in one is said."""

import shutil
from functools import partial

import numpy as np
import pytest
from archives import (
    CLASSES,
    NUMBER,
    TEST,
    aircraft,
    birds,
    caltech,
    cars,
    cucumber,
    dogs,
    flood,
    inat2019,
    indoor67,
    logo2k,
    magnetic_tile,
    resisc45,
    text,
)

from linft.core.errors import LinftError
from linft.data import lazy
from linft.data.catalogue import layouts, prepared
from linft.data.catalogue.layouts import Listing, drawn, first, stratified
from linft.data.catalogue.table import CATALOGUE

OFFICIAL = {  # layouts that say themselves what is train and what test
    "aircraft": aircraft, "birds": birds, "dogs": dogs, "cars": cars, "indoor67": indoor67, "logo2k": logo2k,
    "inat2019": inat2019, "cucumber": cucumber,
}  # fmt: skip


def seen(images, labels, task, pictures):
    """The photographs of a part of a task, with the class that it gives them."""
    return {(pictures[image.tobytes()], task.class_names[y]) for image, y in zip(images, labels, strict=True)}


def identified(task, pictures):
    train = seen(task.x_train, task.y_train, task, pictures)
    return train, seen(task.x_test, task.y_test, task, pictures)


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_splits(name, photos, pictures, home, small, tmp_path):
    source = tmp_path / "archive"
    called = OFFICIAL[name](source, photos)
    assert prepared.prepare(small(name), source) == home / name / prepared.INDEX
    task = prepared.load(name)
    assert (task.name, task.num_classes) == (name, len(CLASSES))
    train, test = identified(task, pictures)
    assert train == {(key, called.format(key[0])) for key in photos if key[1] < TEST}
    assert test == {(key, called.format(key[0])) for key in photos if key[1] >= TEST}


POOLED = {  # layout, split, test images of a class
    "caltech256-60": (caltech, partial(drawn, train=5), 3),
    "caltech256-30": (caltech, partial(first, train=4, validation=1), 3),
    "magnetic-tile": (magnetic_tile, partial(stratified, test=0.25), 2),
    "resisc45": (resisc45, partial(stratified, test=0.25), 2),
}


@pytest.mark.parametrize("name", POOLED)
def test_splits_that_are_drawn(name, photos, pictures, home, small, tmp_path):
    make, split, held = POOLED[name]
    called = make(tmp_path, photos)
    layout = partial(CATALOGUE[name].layout, split=split)
    trained = NUMBER - held - (name == "caltech256-30")
    row = small(name, layout=layout, train=trained * len(CLASSES), test=held * len(CLASSES))
    prepared.prepare(row, tmp_path)
    task = prepared.load(name)
    train, test = identified(task, pictures)
    assert all(class_name == called.format(key[0]) for key, class_name in train | test)
    assert np.bincount(task.y_train).tolist() == [trained] * len(CLASSES)
    assert np.bincount(task.y_test).tolist() == [held] * len(CLASSES)
    assert not {key for key, _ in train} & {key for key, _ in test}
    again = prepared.prepare(row, tmp_path, tmp_path / "again").read_text()
    assert again == (home / name / prepared.INDEX).read_text()  # drawn anew, the same


def test_first_images_train_the_next_validate_the_rest_test(photos, pictures, home, small, tmp_path):
    caltech(tmp_path, photos)
    layout = partial(CATALOGUE["caltech256-30"].layout, split=partial(first, train=4, validation=1))
    prepared.prepare(small("caltech256-30", layout=layout, train=12, test=9), tmp_path)
    parts = identified(prepared.load("caltech256-30"), pictures)
    assert [{i for (_, i), _ in part} for part in parts] == [{0, 1, 2, 3}, {5, 6, 7}]
    parts = identified(prepared.load("caltech256-30@validation"), pictures)
    assert [{i for (_, i), _ in part} for part in parts] == [{0, 1, 2, 3}, {4}]
    with pytest.raises(LinftError, match="caltech256-30 has no part 'holdout'; give one of train, validation, test"):
        prepared.load("caltech256-30@holdout")


def test_relevant_images_are_the_second_class(photos, pictures, home, small, tmp_path):
    flood(tmp_path, photos)
    layout = partial(CATALOGUE["flood"].layout, split=partial(stratified, test=0.25))
    prepared.prepare(small("flood", classes=2, layout=layout), tmp_path)
    train, test = identified(prepared.load("flood"), pictures)
    assert all(called == ("depth" if key[0] == CLASSES[2] else "no depth") for key, called in train | test)
    assert len(train) == 18 and len(test) == 6


def test_draws_take_every_image_once():
    labels = np.random.default_rng(0).integers(0, 3, 200).tolist()
    for split in (partial(drawn, train=20), partial(first, train=10, validation=5), partial(stratified, test=0.2)):
        parts = split(labels)
        assert sorted(i for part in parts.values() for i in part) == list(range(200))
    assert np.bincount(np.array(labels)[drawn(labels, 20)["train"]]).tolist() == [20] * 3
    assert drawn(labels, 20)["train"] != first(labels, 20, 0)["train"]


def test_images_too_many_for_memory_stay_in_their_files(photos, pictures, home, small, tmp_path, monkeypatch):
    indoor67(tmp_path, photos)
    prepared.prepare(small("indoor67"), tmp_path)
    monkeypatch.setattr(lazy, "IN_MEMORY", 10)
    task = prepared.load("indoor67")
    assert isinstance(task.x_train, lazy.LazyImages)
    assert seen(task.x_test, task.y_test, task, pictures) == {((c, i), c) for c, i in photos if i >= TEST}


def remove(*files):
    def spoil(root):
        for file in files:
            (root / file).unlink()

    return spoil


def write(file, content):
    return lambda root: (root / file).write_text(content)


def move_to_test(root):
    lines = (root / "TrainImages.txt").read_text().splitlines()
    text(root, "TrainImages.txt", lines)
    text(root, "TestImages.txt", lines[:6])


def list_twice(root):
    lines = (root / "TrainImages.txt").read_text().splitlines()
    text(root, "TrainImages.txt", [*lines[:-1], lines[0]])


SPOILT = {
    "no annotations": (remove("TrainImages.txt"), {}, r"no .*/TrainImages.txt; unpack indoorCVPR_09.tar, TrainIm"),
    "an image is gone": (
        remove("Images/harbor/harbor_1_altavista.jpg", "Images/river/river_7_altavista.jpg"),
        {},
        "2 of 24 images are not in .*, such as Images/harbor/harbor_1_altavista.jpg, Images/river/",
    ),
    "counts": (
        lambda root: None,
        {"train": 20, "test": 7},
        "18 train images, not 20 and 6 test images, not 7; it",
    ),
    "classes": (lambda root: None, {"classes": 67}, r"indoor67 in .* has 3 classes, not 67; it must be all of MIT"),
    "stated and found": (lambda root: None, {"test": 99, "found": (18, 5)}, "6 test images, not 5"),
    "in both parts": (move_to_test, {}, "6 images are listed more than once, such as .*, both in train and test"),
    "listed twice": (list_twice, {}, "1 images are listed more than once, such as .*, twice in train"),
    "an empty class": (
        write("TrainImages.txt", "".join(f"{c}/{c}_{i}_altavista.jpg\n" for c in CLASSES[:2] for i in range(6))),
        {"train": 12},
        "no training image is of the class river",
    ),
    "no text": (
        lambda root: (root / "TestImages.txt").write_bytes(b"\xff\xfe\xff"),
        {},
        "not those of MIT Indoor 67 .Unic",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_is_amiss_is_said_in_a_line_and_nothing_is_written(case, photos, home, small, tmp_path):
    spoil, changes, message = SPOILT[case]
    source = tmp_path / "archive"
    indoor67(source, photos)
    spoil(source)
    with pytest.raises(LinftError, match=message) as caught:
        prepared.prepare(small("indoor67", **changes), source)
    assert "\n" not in str(caught.value)
    assert not home.exists()


@pytest.mark.parametrize("name", [name for name, row in CATALOGUE.items() if row.layout])
def test_an_empty_folder_is_no_archive(name, home, tmp_path):
    with pytest.raises(LinftError, match=f"{name}: no .*{tmp_path}.*; .* and run linft data prepare {name} --from DIR"):
        prepared.prepare(CATALOGUE[name], tmp_path)


def test_a_label_that_is_no_class(photos, home, small, tmp_path):
    aircraft(tmp_path, photos)
    with (tmp_path / "fgvc-aircraft-2013b/data/images_variant_test.txt").open("a") as file:
        file.write("0000001 Zeppelin NT\n")
    with pytest.raises(
        LinftError,
        match=r"FGVC-Aircraft, by variant \(ValueError: .*Zeppelin NT.*\); unpack fgvc-",
    ):
        prepared.prepare(small("aircraft"), tmp_path)


def test_not_on_disk_or_not_in_the_catalogue(home):
    with pytest.raises(LinftError, match=r"aircraft is not on disk; unpack fgvc.* linft data prepare aircraft --from"):
        prepared.load("aircraft")
    with pytest.raises(LinftError, match="the data set pets is not on disk; have TFDS download it with --download"):
        prepared.load("pets")
    with pytest.raises(LinftError, match="no data set 'zebras' in the catalogue; give one of flowers, birds, "):
        prepared.load("zebras")
    with pytest.raises(LinftError, match="the data set aircraft cannot be downloaded; unpack"):
        prepared.download("aircraft")


@pytest.mark.parametrize("content", ["{", "[]", '{"root": "/", "classes": []}', '{"parts": {"train": 1}}'])
def test_a_damaged_index(home, content):
    (home / "aircraft").mkdir(parents=True)
    (home / "aircraft" / prepared.INDEX).write_text(content)
    with pytest.raises(LinftError, match=r"linft-data.json is damaged \(.*\); write it anew with linft data prepare"):
        prepared.load("aircraft")


def test_every_row_can_be_had():
    for name, row in CATALOGUE.items():
        assert row.name == name and row.papers and row.citation and row.split
        assert row.tfds or row.layout
        assert "/" not in "".join(row.archives)  # files, not addresses


def test_a_copy_moves_with_its_index_or_not_at_all(photos, home, small, tmp_path):
    indoor67(tmp_path / "a", photos)
    prepared.prepare(small("indoor67"), tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    with pytest.raises(LinftError, match=r"altavista\.jpg is not a readable image"):
        prepared.load("indoor67")


def test_same_names_below_different_folders_are_different_classes():
    found = layouts._by_folder({"train": ["L/Food/Apple/1.jpg", "L/Electronic/Apple/1.jpg"], "test": []}, "L")
    assert found == Listing(
        ("Electronic/Apple", "Food/Apple"),
        {"train": [("L/Food/Apple/1.jpg", 1), ("L/Electronic/Apple/1.jpg", 0)], "test": []},
    )
