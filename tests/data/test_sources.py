"""Every source but TFDS reads real images, and says what is wrong with what it cannot read."""

import zipfile

import numpy as np
import pytest
from PIL import Image
from scans import SCANS, TARGETS, assert_the_same_from_files, png, write

from linft.core.errors import LinftError
from linft.data import lazy
from linft.data.lazy import LazyImages
from linft.data.load import load_task


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


def write_many(root):
    for part, count in (("train", 5), ("test", 2)):
        for k, name in enumerate(("a", "ä ö")):
            for i in range(count):
                write(root / part / name / f"{i} ü.png", SCANS[10 * k + i + 5 * (part == "test")][: 4 + i])


@pytest.mark.parametrize("part", ["", "/train"])  # with a test part and without one
def test_many_images_stay_in_their_files_and_are_the_same(part, tmp_path, request):
    write_many(tmp_path)
    name = f"folder:{tmp_path}{part}"
    held = load_task(name)
    request.getfixturevalue("few_fit")
    assert_the_same_from_files(load_task(name), held)


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
}


@pytest.mark.parametrize("case", BAD)
def test_refuses(case, tmp_path):
    name, make, message = BAD[case]
    make(tmp_path)
    with pytest.raises(LinftError, match=message) as error:
        load_task(name.format(root=tmp_path))
    assert len(str(error.value).splitlines()) == 1
