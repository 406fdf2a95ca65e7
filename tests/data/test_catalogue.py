"""Every official layout is read in small copies made of real photographs; whatever is amiss in one is said."""

import io
import json
import shutil
import zipfile
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits

from linft.data.catalogue import layouts, prepared
from linft.data.catalogue.layouts import Listing, drawn, first, stratified
from linft.data.catalogue.table import CATALOGUE, Tfds
from linft.errors import LinftError

CLASSES = ("beach", "harbor", "river")
NUMBER = 8  # photographs a class, of which those from here on are the test part where a layout says
TEST = 6


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


def put(photos, root, name):
    """Write every photograph under the name that a layout has for it; the names."""
    names = {key: name(*key) for key in photos}
    for key, path in names.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(photos[key])
    return names


def text(root, file, lines):
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text("".join(f"{line}\n" for line in lines))


def number(c, i):
    return 1000 + 100 * CLASSES.index(c) + i


def aircraft(root, photos):
    put(photos, root, lambda c, i: f"fgvc-aircraft-2013b/data/images/{number(c, i):07}.jpg")
    data = root / "fgvc-aircraft-2013b/data"
    text(data, "variants.txt", [f"DH {c} 2" for c in CLASSES])
    for part, chosen in (("trainval", lambda i: i < TEST), ("test", lambda i: i >= TEST)):
        lines = [f"{number(c, i):07} DH {c} 2" for c, i in photos if chosen(i)]
        text(data, f"images_variant_{part}.txt", lines)
    return "DH {} 2"


def birds(root, photos):
    root = root / "CUB_200_2011"
    folder = {c: f"{k + 1:03}.{c}" for k, c in enumerate(CLASSES)}
    names = put(photos, root, lambda c, i: f"images/{folder[c]}/{c}_{i:04}.jpg")
    text(root, "classes.txt", [f"{k + 1} {folder[c]}" for k, c in enumerate(CLASSES)])
    text(root, "images.txt", [f"{n + 1} {names[key].removeprefix('images/')}" for n, key in enumerate(photos)])
    text(root, "image_class_labels.txt", [f"{n + 1} {CLASSES.index(c) + 1}" for n, (c, _) in enumerate(photos)])
    text(root, "train_test_split.txt", [f"{n + 1} {int(i < TEST)}" for n, (_, i) in enumerate(photos)])
    return "{}"


def dogs(root, photos):
    folder = {c: f"n0208{k}-{c}" for k, c in enumerate(CLASSES)}
    names = put(photos, root, lambda c, i: f"Images/{folder[c]}/n0208_{i}.jpg")
    for part, chosen in (("train", lambda i: i < TEST), ("test", lambda i: i >= TEST)):
        files = [names[c, i].removeprefix("Images/") for c, i in photos if chosen(i)]
        savemat(root / f"{part}_list.mat", {"file_list": np.array(files, object)[:, None]})
    return "{}"


def cars(root, photos):
    names = put(photos, root, lambda c, i: f"cars_{'train' if i < TEST else 'test'}/{number(c, i):05}.jpg")
    (root / "devkit").mkdir()
    savemat(root / "devkit/cars_meta.mat", {"class_names": np.array([f"{c} 2012" for c in CLASSES], object)})
    kind = [("bbox_x1", object), ("class", object), ("fname", object)]
    for file, chosen in (
        ("devkit/cars_train_annos.mat", lambda i: i < TEST),
        ("cars_test_annos_withlabels.mat", lambda i: i >= TEST),
    ):
        rows = [(1, CLASSES.index(c) + 1, names[c, i].split("/")[1]) for c, i in photos if chosen(i)]
        savemat(root / file, {"annotations": np.array(rows, kind)[None]})
    return "{} 2012"


def indoor67(root, photos):
    names = put(photos, root, lambda c, i: f"Images/{c}/{c}_{i}_altavista.jpg")
    lines = {key: name.removeprefix("Images/") for key, name in names.items()}
    text(root, "TrainImages.txt", [line for (_, i), line in lines.items() if i < TEST])
    text(root, "TestImages.txt", [line for (_, i), line in lines.items() if i >= TEST])
    return "{}"


def logo2k(root, photos):
    names = put(photos, root, lambda c, i: f"Logo-2K+/Food/{c}/{i}.jpg")
    lines = {key: name.removeprefix("Logo-2K+/") for key, name in names.items()}
    text(root, "List/train_images_root.txt", [line for (_, i), line in lines.items() if i < TEST])
    text(root, "List/test_images_root.txt", [line for (_, i), line in lines.items() if i >= TEST])
    return "Food/{}"


def inat2019(root, photos):
    names = put(photos, root, lambda c, i: f"train_val2019/Birds/{CLASSES.index(c) + 40}/{i}.jpg")
    categories = [{"id": k + 40, "name": f"obscure {c}"} for k, c in enumerate(CLASSES)]
    for part, chosen in (("train", lambda i: i < TEST), ("val", lambda i: i >= TEST)):
        images = [{"id": number(*key), "file_name": names[key]} for key in photos if chosen(key[1])]
        notes = [
            {"id": n, "image_id": number(*key), "category_id": CLASSES.index(key[0]) + 40}
            for n, key in enumerate(photos)
            if chosen(key[1])
        ]
        content = {"images": images, "annotations": notes[::-1], "categories": categories}
        (root / f"{part}2019.json").write_text(json.dumps(content))
    return "obscure {}"


def cucumber(root, photos):
    put(photos, root, lambda c, i: f"{'train' if i < TEST else 'test'}/{c}/{i}.jpg")
    (root / "train" / CLASSES[0] / "Thumbs.db").write_text("no image")
    return "{}"


def caltech(root, photos):
    put(photos, root, lambda c, i: f"256_ObjectCategories/{CLASSES.index(c) + 1:03}.{c}/{number(c, i)}.jpg")
    clutter = root / "256_ObjectCategories/257.clutter"
    clutter.mkdir()
    (clutter / "257_0001.jpg").write_bytes(photos[CLASSES[0], 0])
    return "{}"


def magnetic_tile(root, photos):
    put(photos, root, lambda c, i: f"MT_{c}/Imgs/exp1_num_{i}.jpg")
    Image.new("L", (4, 4)).save(root / "MT_harbor/Imgs/exp1_num_0.png")  # a mask
    return "{}"


def resisc45(root, photos):
    put(photos, root, lambda c, i: f"NWPU-RESISC45/{c}/{c}_{i:03}.jpg")
    return "{}"


def flood(root, photos):
    put(photos, root, lambda c, i: f"imgs_small/{number(c, i)}.jpg")
    text(root, "relevance/depth.txt", [number(c, i) for c, i in photos if c == CLASSES[2]])
    return None


OFFICIAL = {  # layouts that say themselves what is train and what test
    "aircraft": aircraft, "birds": birds, "dogs": dogs, "cars": cars, "indoor67": indoor67, "logo2k": logo2k,
    "inat2019": inat2019, "cucumber": cucumber,
}  # fmt: skip
COUNTS = {"classes": len(CLASSES), "train": TEST * len(CLASSES), "test": (NUMBER - TEST) * len(CLASSES), "found": None}


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
    monkeypatch.setattr(prepared, "IN_MEMORY", 10)
    task = prepared.load("indoor67")
    assert not isinstance(task.x_train, list | np.ndarray)
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


class SmallFlowers(tfds.core.GeneratorBasedBuilder):
    """Scanned digits that stand in for a data set of TFDS with three parts."""

    VERSION = tfds.core.Version("1.0.0")
    SPLITS: ClassVar = {"train": (0, 20), "validation": (20, 40), "test": (40, 70)}

    def _info(self):
        label = tfds.features.ClassLabel(num_classes=10)
        image = tfds.features.Image(shape=(8, 8, 1))
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({"image": image, "label": label}))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(*ends) for split, ends in self.SPLITS.items()}

    def _generate_examples(self, start, end):
        for i in range(start, end):
            yield i, {"image": SCANS[i][..., None], "label": int(load_digits().target[i])}


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
    monkeypatch.setattr(prepared, "IN_MEMORY", 10)
    lazy = prepared.load("flowers")
    assert not isinstance(lazy.x_train, list | np.ndarray)
    assert numbers(lazy.x_train) == set(range(40)) and lazy.y_train.tolist() == task.y_train.tolist()
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
    known = set(tfds.list_builders())
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
