"""Data sets of TFDS, as their authors write them, are read without TensorFlow; what cannot be read is refused."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from scans import SCANS, TARGETS, assert_the_same_from_files, png

from linft.core.errors import LinftError
from linft.data import tfds as tfds_source
from linft.data.load import load_task


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


@pytest.mark.parametrize("name", ["scanned_digits", "train_digits"])  # with a test part and without one
def test_many_images_stay_in_their_files_and_are_the_same(name, tfds_dir, request):
    held = load_task(f"tfds:{name}")
    request.getfixturevalue("few_fit")
    many = load_task(f"tfds:{name}")
    tfds_source._open.cache_clear()
    assert_the_same_from_files(many, held)


def test_an_unreadable_record_among_many_is_named_when_reached(prepared, tmp_path, few_fit):
    root = shutil.copytree(prepared / "scanned_digits" / "1.0.0", tmp_path / "1.0.0")
    images = load_task(f"tfds:{root}").x_train
    for records in root.glob("*train*array_record*"):
        records.write_bytes(bytes(records.stat().st_size))
    tfds_source._open.cache_clear()
    with pytest.raises(LinftError, match=r"cannot read image 7 of the split train in .*; prepare the data set anew"):
        images[7]


BAD = {
    "unknown": ("tfds:no_such_set", "cannot open the TFDS data set 'no_such_set': .* not found"),
    "no name": ("tfds:", "cannot open the TFDS data set '': Parsing builder name"),
    "other folder": ("tfds:{root}", "has no dataset_info.json; give the folder of a prepared version"),
    "no train": ("tfds:test_digits", "test_digits has no split train, only test"),
    "16 bits": ("tfds:deep", "the TFDS data set deep has images of uint16; they must be uint8"),
    "many labels": ("tfds:many_label_digits", "has the features image, label; a task needs an image an"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses(case, tfds_dir, tmp_path):
    name, message = BAD[case]
    with pytest.raises(LinftError, match=message) as error:
        load_task(name.format(root=tmp_path))
    assert len(str(error.value).splitlines()) == 1
