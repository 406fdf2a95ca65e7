"""Folders as people have them are read as torchvision's ImageFolder reads them, and what is passed over is told."""

import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from linft.core.errors import LinftError
from linft.data.image_folder import find
from linft.data.load import load_task


def make(root, *files):
    """Images of their own number, or empty files of other suffixes."""
    for i, file in enumerate(files):
        path = os.path.join(os.fsencode(root), os.fsencode(file))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        suffix = os.path.splitext(file)[1].lower()
        known = Image.registered_extensions().get(suffix)
        if known is None:
            open(path, "wb").close()
        else:
            with open(path, "wb") as out:
                Image.new("L", (3, 2), i).save(out, known)


def test_folders_in_a_class_are_read_in_torchvision_s_order(tmp_path):
    # the order of sorted(os.walk(folder)): by folder, as a string, then by name
    order = ["a/1.png", "a/2.png", "a/camera/0.png", "a/camera/far/0.png", "a/camera-2/0.png", "b/x/0.png"]
    make(tmp_path, *order)
    walked = [
        (os.path.relpath(os.path.join(place, file), tmp_path), label)
        for label, name in enumerate("ab")
        for place, _, files in sorted(os.walk(tmp_path / name, followlinks=True))
        for file in sorted(files)
    ]
    assert find(tmp_path).parts == {"train": walked}
    assert len(walked) == 6


def test_every_suffix_in_capitals_or_not(tmp_path):
    suffixes = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".jfif", ".gif")
    suffixes += (".JPG", ".Jpeg", ".TIFF")
    make(tmp_path, *(f"{name}/{i}{suffix}" for name in "ab" for i, suffix in enumerate(suffixes)))
    task = load_task(f"folder:{tmp_path}")
    assert len(task.y_train) + len(task.y_test) == 2 * len(suffixes)


PARTS = [("Train", "Test"), ("TRAIN", "val"), ("training", "testing"), ("Training", "Validation"), ("train", "valid")]


@pytest.mark.parametrize(("train", "test"), PARTS)
def test_parts_by_their_usual_names(train, test, tmp_path):
    make(tmp_path, *(f"{train}/{c}/{i}.png" for c in "ab" for i in range(3)), f"{test}/a/0.png", f"{test}/b/0.png")
    task = load_task(f"folder:{tmp_path}")
    assert (task.class_names, task.y_train.tolist(), task.y_test.tolist()) == (("a", "b"), [0, 0, 0, 1, 1, 1], [0, 1])


def test_a_class_may_be_called_as_a_part(tmp_path):
    make(tmp_path, *(f"{name}/{i}.png" for name in ("bus", "train", "test") for i in range(4)))
    assert load_task(f"folder:{tmp_path}").class_names == ("bus", "test", "train")


def test_one_class_name_in_two_unicode_spellings(tmp_path):
    for part, form in (("train", "NFC"), ("test", "NFD")):
        make(tmp_path, *(f"{part}/{unicodedata.normalize(form, name)}/0.png" for name in ("thé", "café")))
    task = load_task(f"folder:{tmp_path}")
    assert task.class_names == ("café", "thé") and task.y_test.tolist() == [0, 1]
    make(tmp_path, f"train/{unicodedata.normalize('NFD', 'thé')}/0.png")
    with pytest.raises(LinftError, match="train has two folders called thé, in two Unicode spellings; keep one"):
        find(tmp_path)


def test_names_that_are_no_utf8_can_be_printed(tmp_path):
    make(tmp_path, *(os.fsdecode(b"caf\xe9/%d.png" % i) for i in range(4)), *(f"the/{i}.png" for i in range(4)))
    task = load_task(f"folder:{tmp_path}")
    "".join(task.class_names).encode()
    assert task.class_names[0].startswith("caf") and task.class_names[1] == "the"
    assert sorted({int(image[0, 0, 0]) for image in [*task.x_train, *task.x_test]}) == list(range(8))


def test_what_is_passed_over_is_counted_and_told(tmp_path, caplog):
    classes = [f"train/{c}/{i}.png" for c in "ab" for i in range(2)]
    make(tmp_path, *classes, "test/a/0.png", "test/b/0.png", "val/a/0.png", "val/b/0.png", "val/b/1.png")
    find(tmp_path)
    assert "passed over images in val (3)" in caplog.text
    caplog.clear()
    make(tmp_path, "train/a/notes.txt", "train/a/x.heic", "train/a/y.heic", "train/b/.DS_Store", "train/b/.x/0.png")
    make(tmp_path, "train/0.png", "train/1.png", "train/.cache/0.png")
    assert len(find(tmp_path).parts["train"]) == 4
    (line,) = caplog.messages
    assert line.startswith(f"{tmp_path}: passed over ")
    for told in (".txt files (1)", ".heic files (2)", "hidden (3)", "beside the class folders (2)"):
        assert told in line


def test_says_nothing_where_nothing_is_passed_over(tmp_path, caplog):
    make(tmp_path, *(f"{c}/{i}.png" for c in "ab" for i in range(2)))
    find(tmp_path)
    assert not caplog.messages


def test_links_are_followed_but_not_in_a_circle(tmp_path, caplog):
    make(tmp_path / "data", "a/0.png", "b/0.png")
    make(tmp_path / "more", "c/0.png", "c/d/1.png")
    (tmp_path / "data" / "c").symlink_to(tmp_path / "more" / "c")
    (tmp_path / "data" / "b" / "c").symlink_to(tmp_path / "more" / "c")
    (tmp_path / "data" / "a" / "up").symlink_to(tmp_path / "data")
    found = find(tmp_path / "data")
    assert np.bincount([label for _, label in found.parts["train"]]).tolist() == [1, 3, 2]
    assert "links in a circle (1)" in caplog.text


def link_to_nothing(root):
    make(root, "a/0.png", "b/0.png")
    (root / "a" / "1.png").symlink_to(root / "gone.png")


BAD = {
    "a class without images": (
        ("a/0.png", "b/x.heic", "b/y.txt"),
        r"b has no images .*, only \.heic files \(1\), .txt",
    ),
    "parts without classes": (("train/0.png", "test/0.png"), "test has no subfolders; put the images of each class in"),
    "a test part alone": (("test/a/0.png", "test/b/0.png"), "test has class folders, but no train or training beside"),
    "two training parts": (("train/a/0.png", "Train/a/0.png"), "has the folders Train and train; keep one of them"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses(case, tmp_path):
    files, message = BAD[case]
    make(tmp_path, *files)
    with pytest.raises(LinftError, match=message) as error:
        load_task(f"folder:{tmp_path}")
    assert len(str(error.value).splitlines()) == 1


def test_names_a_link_that_leads_nowhere(tmp_path):
    link_to_nothing(tmp_path)
    with pytest.raises(LinftError, match=r"a/1.png is not a readable image \(No such file or directory\); repair"):
        load_task(f"folder:{tmp_path}")
