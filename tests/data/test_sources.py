"""Every source reads real images, and says what is wrong with what it cannot read."""

import io
import json
import pickle
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits

from linft.core.errors import LinftError
from linft.data import lazy
from linft.data import tfds as tfds_source
from linft.data.lazy import LazyImages
from linft.data.load import load_task

SCANS = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
TARGETS = load_digits().target


def test_digits():
    task = load_task("digits")
    assert (task.name, task.num_classes) == ("digits", 10)
    assert np.bincount(task.y_test).sum() == 450
    pool = {(scan.tobytes(), int(label)) for scan, label in zip(SCANS, TARGETS, strict=True)}
    for images, labels in ((task.x_train, task.y_train), (task.x_test, task.y_test)):
        assert {(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)} <= pool


def test_npz(shared):
    path = shared / "data" / "hymenoptera_32.npz"
    task = load_task(f"npz:{path}")
    assert (task.name, task.class_names) == ("hymenoptera_32", ("ants", "bees"))
    with np.load(path) as file:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            np.testing.assert_array_equal(getattr(task, name), file[name])


def test_npz_without_a_test_part_or_class_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.savez(tmp_path / "few.npz", x_train=SCANS[:200], y_train=TARGETS[:200])
    task = load_task("npz:~/few.npz")
    assert task.class_names == tuple("0123456789")
    assert len(task.y_train) + len(task.y_test) == 200


@pytest.mark.parametrize("test", ["test", "val"])
def test_npz_as_medmnist_has_them(test, tmp_path, caplog):
    parts = {"train": slice(0, 40), "val": slice(40, 60), "test": slice(60, 80)}
    if test == "val":
        del parts["test"]
    arrays = {f"{part}_images": SCANS[of] for part, of in parts.items()}
    arrays |= {f"{part}_labels": TARGETS[of, None].astype(np.uint8) for part, of in parts.items()}
    np.savez(tmp_path / "medical.npz", **arrays, class_names=np.array([b"zero", *map(str, range(1, 10))], "S"))
    task = load_task(f"npz:{tmp_path}/medical.npz")
    np.testing.assert_array_equal(task.x_train[..., 0], SCANS[:40])
    np.testing.assert_array_equal(task.x_test[..., 0], SCANS[parts[test]])
    assert (task.y_train.tolist(), task.y_test.tolist()) == (TARGETS[:40].tolist(), TARGETS[parts[test]].tolist())
    assert task.class_names == ("zero", *map(str, range(1, 10)))
    assert ("val_images" in caplog.text) == (test == "test")  # left out, which is told


def unzipped(shared, name, path):
    with zipfile.ZipFile(shared / "data" / name) as file:
        file.extractall(path)
    return path


def test_folder_of_photographs_of_many_sizes(shared, tmp_path):
    root = unzipped(shared, "hymenoptera_photos.zip", tmp_path) / "hymenoptera"
    task = load_task(f"folder:{root}")
    assert (task.name, task.class_names) == ("hymenoptera", ("ants", "bees"))
    assert np.bincount(task.y_train).tolist() == [32, 32]
    assert np.bincount(task.y_test).tolist() == [16, 16]  # from `val`, there is no `test`
    first, last = root / "train/ants/0013035.jpg", sorted(root.glob("val/bees/*.jpg"))[-1]
    np.testing.assert_array_equal(task.x_train[0], np.asarray(Image.open(first)))
    np.testing.assert_array_equal(task.x_test[-1], np.asarray(Image.open(last)))
    assert len({image.shape for image in task.x_train}) > 5


def test_folder_without_a_test_part(shared, tmp_path):
    root = unzipped(shared, "ucmerced_photos.zip", tmp_path) / "ucmerced16" / "test"
    task = load_task(f"folder:{root}")
    assert task.num_classes == 16 and task.class_names[0] == "agricultural"
    assert np.bincount(task.y_train).tolist() == [6] * 16
    assert np.bincount(task.y_test).tolist() == [2] * 16


def write(path, image=SCANS[0], **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)


def test_folder_prefers_test_to_val_and_passes_over_other_files(tmp_path):
    for part, count in (("train", 2), ("val", 3), ("test", 1)):
        for name in ("a", "b"):
            for i in range(count):
                write(tmp_path / part / name / f"{i}.PNG")
    (tmp_path / "train" / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "a" / "._0.png").write_bytes(b"a Mac's shadow of a file")
    (tmp_path / "train" / ".cache").mkdir()
    task = load_task(f"folder:{tmp_path}")
    assert (task.y_train.tolist(), task.y_test.tolist()) == ([0, 0, 1, 1], [0, 1])


def test_folder_turns_images_upright_and_makes_them_rgb(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise
    wide = SCANS[0][:5]
    for name in ("a", "b"):
        for part in ("train", "test"):
            write(tmp_path / part / name / "0.png", wide, exif=exif)
    expected = np.repeat(np.rot90(wide, -1)[..., None], 3, axis=-1)
    np.testing.assert_array_equal(load_task(f"folder:{tmp_path}").x_train[0], expected)


def png(scan):
    """A file's bytes: encoding an array would need TensorFlow."""
    data = io.BytesIO()
    Image.fromarray(scan).save(data, "png")
    data.seek(0)
    return data


class ScannedDigits(tfds.core.GeneratorBasedBuilder):
    """A TFDS data set as its author would write it; the first digits, a hundred a split."""

    VERSION = tfds.core.Version("1.0.0")
    FEATURES = {  # noqa: RUF012 (read only)
        "image": tfds.features.Image(shape=(None, None, 1)),
        "label": tfds.features.ClassLabel(names=[f"digit {i}" for i in range(10)]),
        "number": np.int64,
        "boxes": tfds.features.Sequence({"bbox": tfds.features.BBoxFeature()}),
    }
    SPLITS = ("train", "test")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(self.FEATURES))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(100 * i, split) for i, split in enumerate(self.SPLITS)}

    def _generate_examples(self, start, split):
        for i in range(start, start + 100):
            label = -1 if split == "test" and len(self.SPLITS) == 3 else int(TARGETS[i])
            example = {"image": png(SCANS[i]), "label": label, "number": i, "boxes": {"bbox": []}}
            yield i, {name: example[name] for name in self.FEATURES}


class UnlabelledTestDigits(ScannedDigits):
    """Its test labels are kept secret, as those of ImageNet and Places."""

    SPLITS = ("train", "test", "validation")


class TrainDigits(ScannedDigits):
    """It has no test part."""

    SPLITS = ("train",)


class TestDigits(ScannedDigits):
    """It has no training part."""

    SPLITS = ("test",)
    __test__ = False  # not a test, whatever its name begins with


class ManyLabelDigits(ScannedDigits):
    """It has several labels an image."""

    FEATURES = {  # noqa: RUF012
        "image": tfds.features.Image(shape=(None, None, 1)),
        "label": tfds.features.Sequence(tfds.features.ClassLabel(num_classes=10)),
    }

    def _generate_examples(self, start, split):
        yield 0, {"image": png(SCANS[start]), "label": [1, 2]}


ODD_KINDS = {  # how a data set's author may have stored images: mode -> encoded
    "RGB": lambda image: stored(image, "png"),
    "P": lambda image: stored(image.quantize(32), "png", transparency=bytes(range(32))),
    "1": lambda image: stored(image.convert("1"), "png"),
    "L": lambda image: stored(image.convert("L"), "jpeg"),
    "LA": lambda image: stored(image.convert("LA"), "png"),
    "RGBA": lambda image: stored(image.convert("RGBA"), "png"),
    "CMYK": lambda image: stored(image.convert("CMYK"), "jpeg"),
}


def ramps():
    """A picture of three channels."""
    across, down = np.meshgrid(np.linspace(0, 255, 24), np.linspace(0, 255, 18))
    return Image.fromarray(np.stack([across, 255 - across, down], -1).astype(np.uint8))


def stored(image, form, **options):
    data = io.BytesIO()
    image.save(data, form, **options)
    data.seek(0)
    return data


class OddlyStored(tfds.core.GeneratorBasedBuilder):
    """Two images of each kind, in colours by what the data set says of itself."""

    VERSION = tfds.core.Version("1.0.0")
    SHAPE, DTYPE = (None, None, 3), np.uint8

    def _info(self):
        image = tfds.features.Image(shape=self.SHAPE, dtype=self.DTYPE)
        names = list(ODD_KINDS)
        features = tfds.features.FeaturesDict({"image": image, "label": tfds.features.ClassLabel(names=names)})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples() for split in ("train", "test")}

    def _generate_examples(self):
        for label, make in enumerate(ODD_KINDS.values()):
            for i in range(2):
                yield f"{label} {i}", {"image": make(ramps()), "label": label}


class OddlyStoredInGrey(OddlyStored):
    """The same, in grey by what it says."""

    SHAPE = (None, None, 1)


class Deep(OddlyStored):
    """It says that its images have 16 bits."""

    SHAPE, DTYPE = (None, None, 1), np.uint16


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A TFDS directory in which the data sets above are prepared."""
    root = tmp_path_factory.mktemp("tfds")
    digits = (ScannedDigits, UnlabelledTestDigits, TrainDigits, TestDigits, ManyLabelDigits)
    for builder in (*digits, OddlyStored, OddlyStoredInGrey, Deep):
        builder(data_dir=root, file_format="array_record").download_and_prepare()
    return root


def same_images(images, scans):
    return {image.tobytes() for image in images} == {scan.tobytes() for scan in scans}


@pytest.fixture
def tfds_dir(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    return prepared


@pytest.mark.parametrize("name", ["scanned_digits", "scanned_digits:1.0.0", "{root}/scanned_digits/1.0.0"])
def test_tfds(tfds_dir, name):
    task = load_task("tfds:" + name.format(root=tfds_dir))
    assert task.name == "scanned_digits"
    assert task.class_names == tuple(f"digit {i}" for i in range(10))
    assert same_images(task.x_train, SCANS[:100]) and same_images(task.x_test, SCANS[100:200])
    label_of = {scan.tobytes(): int(label) for scan, label in zip(SCANS, TARGETS, strict=True)}
    assert [label_of[image.tobytes()] for image in task.x_train] == task.y_train.tolist()


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # of the reference
@pytest.mark.parametrize(("name", "mode"), [("oddly_stored", "RGB"), ("oddly_stored_in_grey", "L")])
def test_tfds_images_are_as_pillow_converts_them_however_they_are_stored(name, mode, tfds_dir):
    task = load_task(f"tfds:{name}")
    for images, labels in ((task.x_train, task.y_train), (task.x_test, task.y_test)):
        assert np.bincount(labels).tolist() == [2] * len(ODD_KINDS)
        for image, label in zip(images, labels, strict=True):
            file = ODD_KINDS[task.class_names[label]](ramps())
            expected = np.asarray(Image.open(file).convert(mode)).reshape(18, 24, -1)
            np.testing.assert_array_equal(image, expected)


def test_tfds_is_read_without_tensorflow(prepared):
    name = f"tfds:{prepared}/scanned_digits/1.0.0"
    code = (
        "import linft, linft.data.lazy, sys; "
        f"linft.load_task({name!r}); linft.data.lazy.IN_MEMORY = 1; linft.load_task({name!r}).x_train[0]; "
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tfds_tests_on_validation_where_test_has_no_labels(tfds_dir):
    assert same_images(load_task("tfds:unlabelled_test_digits").x_test, SCANS[200:300])


def test_tfds_without_a_test_part(tfds_dir):
    task = load_task("tfds:train_digits")
    assert same_images([*task.x_train, *task.x_test], SCANS[:100])
    assert np.bincount(task.y_test).min() >= 2


def test_tfds_prepares_only_when_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(LinftError, match=r"scanned_digits is not prepared in .* with --download \(in Python: downl"):
        load_task("tfds:scanned_digits")
    assert not list(tmp_path.iterdir())
    assert len(load_task("tfds:scanned_digits", download=True).y_train) == 100
    assert len(load_task("tfds:scanned_digits", download=True).y_train) == 100  # there already


def test_tfds_says_why_preparing_failed(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(LinftError, match="could not download and prepare the TFDS data set imagenet2012: Manual dir"):
        load_task("tfds:imagenet2012", download=True)  # whose archives one must fetch by hand


def test_tfds_refuses_what_only_tensorflow_reads(prepared, tmp_path):
    root = shutil.copytree(prepared / "scanned_digits" / "1.0.0", tmp_path / "1.0.0")
    info = json.loads((root / "dataset_info.json").read_text())
    (root / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(LinftError, match="is prepared as tfrecord, which only TensorFlow reads"):
        load_task(f"tfds:{root}")


@pytest.fixture
def few_fit(monkeypatch):
    """Makes a task hold no more in memory than 4 scans in colour."""
    monkeypatch.setattr(lazy, "IN_MEMORY", 4 * 8 * 8 * 3)


def write_many(root):
    for part, count in (("train", 5), ("test", 2)):
        for k, name in enumerate(("a", "ä ö")):
            for i in range(count):
                write(root / part / name / f"{i} ü.png", SCANS[10 * k + i + 5 * (part == "test")][: 4 + i])


MANY = {
    "folder": ("folder:{root}", write_many),
    "folder without a test part": ("folder:{root}/train", write_many),
    "tfds": ("tfds:scanned_digits", lambda root: None),
    "tfds without a test part": ("tfds:train_digits", lambda root: None),
}


@pytest.mark.parametrize("case", MANY)
def test_many_images_stay_in_their_files_and_are_the_same(case, tfds_dir, tmp_path, request):
    name, make = MANY[case]
    make(tmp_path)
    held = load_task(name.format(root=tmp_path))
    request.getfixturevalue("few_fit")
    many = load_task(name.format(root=tmp_path))
    tfds_source._open.cache_clear()
    assert not isinstance(held.x_train, LazyImages)
    for part in ("train", "test"):
        images, same = getattr(many, f"x_{part}"), getattr(held, f"x_{part}")
        assert isinstance(images, LazyImages) and len(images) == len(same) > 1
        for image, other, copy in zip(images, same, pickle.loads(pickle.dumps(images)), strict=True):
            np.testing.assert_array_equal(image, other)
            np.testing.assert_array_equal(copy, other)
        np.testing.assert_array_equal(getattr(many, f"y_{part}"), getattr(held, f"y_{part}"))
    assert (many.name, many.class_names) == (held.name, held.class_names)


def test_what_fits_in_memory_is_counted_in_bytes_of_both_parts(tmp_path, monkeypatch):
    write_many(tmp_path)
    pixels = 2 * 8 * sum(height for heights in (range(4, 9), range(4, 6)) for height in heights)
    for most, lazily in ((3 * pixels, False), (3 * pixels - 1, True)):
        monkeypatch.setattr(lazy, "IN_MEMORY", most)
        assert isinstance(load_task(f"folder:{tmp_path}").x_train, LazyImages) == lazily


def test_no_more_headers_are_looked_at_than_needed(tmp_path, few_fit):
    for i in range(40):
        write(tmp_path / "ab"[i % 2] / f"{i}.png", SCANS[i])
    task = load_task(f"folder:{tmp_path}")
    opened = []

    class Counted(lazy.Encoded):
        def encoded(self, number):
            opened.append(number)
            return task.x_train.read.encoded(number)

        def name(self, number):
            return str(number)

    assert isinstance(lazy.held(LazyImages(Counted(), task.x_train.numbers))[0], LazyImages)
    assert len(opened) == 5  # four fit


def test_an_unreadable_image_among_many_is_named_when_reached(tmp_path, few_fit):
    write_many(tmp_path)
    bad = tmp_path / "train" / "a" / "3 ü.png"
    bad.write_bytes(bad.read_bytes()[:-30])
    images = load_task(f"folder:{tmp_path}").x_train
    assert images[2].shape == (6, 8, 3)
    with pytest.raises(LinftError, match=r"3 ü.png is not a readable image .*; repair or remove it"):
        images[3]


def test_an_unreadable_record_among_many_is_named_when_reached(prepared, tmp_path, few_fit):
    root = shutil.copytree(prepared / "scanned_digits" / "1.0.0", tmp_path / "1.0.0")
    images = load_task(f"tfds:{root}").x_train
    for records in root.glob("*train*array_record*"):
        records.write_bytes(bytes(records.stat().st_size))
    tfds_source._open.cache_clear()
    with pytest.raises(LinftError, match=r"cannot read image 7 of the split train in .*; prepare the data set anew"):
        images[7]


def broken_image(root):
    write(root / "a" / "0.png")
    (root / "b").mkdir()
    (root / "b" / "cut.png").write_bytes(png(SCANS[0]).getvalue()[:-40])


def sixteen_bits(root):
    write(root / "a" / "0.png")
    write(root / "b" / "deep.png", SCANS[0].astype(np.uint16) * 256)


def classes(**parts):
    def make(root):
        for part, names in parts.items():
            for name in names:
                write(root / part / name / "0.png")

    return make


def npz(**arrays):
    return lambda root: np.savez(root / "x.npz", **arrays)


def file(data):
    return lambda root: (root / "x.npz").write_bytes(data)


def one_array(root):
    np.save(root / "x.npy", SCANS)
    (root / "x.npy").rename(root / "x.npz")


def nothing(root):
    """The directory stays empty."""


BAD = {
    "no such source": ("photos", nothing, "no task 'photos'; give digits, npz:PATH, folder:PATH, tfds:"),
    "digits of something": ("digits:8", nothing, "the task digits takes nothing after its name, not '8'"),
    "npz: missing": ("npz:{root}/x.npz", nothing, "no file .*x.npz; give the path of an .npz file after npz:"),
    "npz: not a zip": ("npz:{root}/x.npz", file(b"PK\3\4garbage"), "x.npz is not a readable .npz file"),
    "npz: empty": ("npz:{root}/x.npz", file(b""), "x.npz is not a readable .npz file"),
    "npz: one array": ("npz:{root}/x.npz", one_array, "not a readable .npz file of plain arrays"),
    "npz: objects": ("npz:{root}/x.npz", npz(x_train=np.array([1, "a"], object), y_train=0), "not a readable .npz"),
    "npz: no labels": ("npz:{root}/x.npz", npz(x_train=SCANS), "x.npz lacks y_train; it needs x_train, y_train, x_t"),
    "npz: no test labels": (
        "npz:{root}/x.npz",
        npz(x_train=SCANS, y_train=TARGETS, x_test=SCANS),
        "x.npz lacks y_test",
    ),
    "npz: many labels an image": (
        "npz:{root}/x.npz",
        npz(train_images=SCANS, train_labels=np.eye(10, dtype=int)[TARGETS]),
        r"y_train is int64\[1797, 10\]; labels must be whole numbers \[n\]",
    ),
    "npz: floats": ("npz:{root}/x.npz", npz(x_train=SCANS / 255, y_train=TARGETS), "x_train is float64; images must"),
    "folder: none": ("folder:", nothing, "no folder ''; give the path of a folder of images after folder:"),
    "folder: missing": ("folder:{root}/x", nothing, "no folder '.*x'"),
    "folder: no classes": ("folder:{root}", nothing, "has no subfolders; put the images of each class in a subfolder"),
    "folder: one class": ("folder:{root}", classes(train=["a"]), "train has one class subfolder only, 'a'; a task"),
    "folder: no images": ("folder:{root}", lambda root: [(root / n).mkdir() for n in "ab"], "a has no images .*; add"),
    "folder: cut image": ("folder:{root}", broken_image, "cut.png is not a readable image .*; repair or remove it"),
    "folder: 16 bits": ("folder:{root}", sixteen_bits, r"deep.png has more than 8 bits a channel \(I;16\); convert"),
    "folder: new class in test": ("folder:{root}", classes(train="ab", test="abc"), "test has the class c, which the"),
    "folder: class not in test": ("folder:{root}", classes(train="ab", valid="a"), "valid lacks the class b of the"),
    "tfds: unknown": ("tfds:no_such_set", nothing, "cannot open the TFDS data set 'no_such_set': .* not found"),
    "tfds: no name": ("tfds:", nothing, "cannot open the TFDS data set '': Parsing builder name"),
    "tfds: other folder": ("tfds:{root}", nothing, "has no dataset_info.json; give the folder of a prepared version"),
    "tfds: no train": ("tfds:test_digits", nothing, "test_digits has no split train, only test"),
    "tfds: 16 bits": ("tfds:deep", nothing, "the TFDS data set deep has images of uint16; they must be uint8"),
    "tfds: many labels": ("tfds:many_label_digits", nothing, "has the features image, label; a task needs an image an"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses(case, tfds_dir, tmp_path):
    name, make, message = BAD[case]
    make(tmp_path)
    with pytest.raises(LinftError, match=message) as error:
        load_task(name.format(root=tmp_path))
    assert len(str(error.value).splitlines()) == 1
