"""Sampling from a task is stratified, seeded and disjoint, and wrong arrays are refused."""

import numpy as np
import pytest

from linft.core.errors import LinftError
from linft.core.task import Task
from linft.core.trees import digest
from linft.data.lazy import LazyImages

LABELS = np.repeat([0, 1, 2], [60, 30, 10])


def numbered(n, start=0):
    """Images [n 1 2 1] that carry their own number, so that they can be told apart."""
    number = np.arange(start, start + n)
    return np.stack([number // 256, number % 256], axis=1).astype(np.uint8)[:, None, :, None]


def numbers(images):
    return [256 * int(image[0, 0, 0]) + int(image[0, 1, 0]) for image in images]


@pytest.fixture
def task():
    """100 training images in classes of 60, 30 and 10, and 50 test images in the same proportions."""
    return Task.from_arrays(numbered(100), LABELS, numbered(50, 100), np.repeat([0, 1, 2], [30, 15, 5]))


@pytest.mark.parametrize("seed", range(3))
def test_few_shot_takes_k_of_each_class(task, seed):
    few = task.few_shot(5, seed)
    assert few.y_train.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    kept = numbers(few.x_train)
    assert len(set(kept)) == 15
    np.testing.assert_array_equal(LABELS[kept], few.y_train)
    assert few.x_test is task.x_test


@pytest.mark.parametrize(("n", "counts"), [(50, [30, 15, 5]), (10, [6, 3, 1]), (7, [4, 2, 1]), (100, [60, 30, 10])])
def test_subset_keeps_the_classes_in_proportion(task, n, counts):
    part = task.subset(n, n // 2)
    assert np.bincount(part.y_train).tolist() == counts
    kept = numbers(part.x_train)
    assert len(set(kept)) == n
    np.testing.assert_array_equal(LABELS[kept], part.y_train)
    assert kept != sorted(kept)
    assert len(part.y_test) == n // 2 and set(numbers(part.x_test)) <= set(range(100, 150))
    np.testing.assert_array_equal(task.subset(n).y_train, part.y_train)
    assert task.subset(n).x_test is task.x_test


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_holdout_splits_each_class_of_the_training_part(task, fraction):
    split = task.holdout(fraction)
    train, test = numbers(split.x_train), numbers(split.x_test)
    assert sorted(train + test) == list(range(100))
    np.testing.assert_array_equal(LABELS[train], split.y_train)
    np.testing.assert_array_equal(LABELS[test], split.y_test)
    assert np.bincount(split.y_test).tolist() == np.round(fraction * np.array([60, 30, 10])).tolist()


@pytest.mark.parametrize("sample", [lambda t, s: t.few_shot(5, s), lambda t, s: t.subset(30, seed=s),
                                    lambda t, s: t.holdout(0.3, s)])  # fmt: skip
def test_sampling_is_seeded(task, sample):
    assert numbers(sample(task, 1).x_train) == numbers(sample(task, 1).x_train)
    assert set(numbers(sample(task, 1).x_train)) != set(numbers(sample(task, 2).x_train))


def test_without_a_test_part_a_quarter_of_each_class_becomes_one():
    task = Task.from_arrays(numbered(100), LABELS)
    assert np.bincount(task.y_train).tolist() == [45, 22, 8]
    assert np.bincount(task.y_test).tolist() == [15, 8, 2]
    assert sorted(numbers(task.x_train) + numbers(task.x_test)) == list(range(100))


@pytest.mark.parametrize(
    "sample", [lambda t: t.few_shot(5), lambda t: t.subset(30, 10), lambda t: t.holdout(0.3), lambda t: t]
)
@pytest.mark.parametrize("with_test", [True, False])
def test_images_that_stay_in_files_are_sampled_alike_and_unread(sample, with_test):
    read = []

    def from_file(number):
        read.append(number)
        return numbered(150)[number]

    lazy = LazyImages(from_file, np.arange(150))
    test = (numbered(50, 100), np.repeat([0, 1, 2], [30, 15, 5])) if with_test else ()
    lazy_test = (lazy[100:], *test[1:]) if with_test else ()
    held = sample(Task.from_arrays(numbered(100), LABELS, *test))
    task = sample(Task.from_arrays(lazy[:100], LABELS, *lazy_test))
    assert set(read) <= {0, 100}  # the first of each part, to see what images these are
    assert isinstance(task.x_train, LazyImages) and isinstance(task.x_test, LazyImages)
    assert numbers(task.x_train) == numbers(held.x_train)
    assert numbers(task.x_test) == numbers(held.x_test)
    np.testing.assert_array_equal(task.y_test, held.y_test)


def test_refuses_images_in_files_that_are_not_uint8():
    with pytest.raises(LinftError, match="x_train is float64; images must be uint8, from 0 to 255"):
        Task.from_arrays(LazyImages(lambda i: X[i] / 255, np.arange(4)), Y)


def test_images_of_different_sizes_are_sampled_as_a_list():
    images = [np.full((4 + i, 5, 3), i, np.uint8) for i in range(8)]
    task = Task.from_arrays(images, np.arange(8) % 2).few_shot(2)
    assert [image.shape for image in task.x_train] == [(4 + image[0, 0, 0], 5, 3) for image in task.x_train]
    assert [int(image[0, 0, 0]) % 2 for image in task.x_train] == [0, 0, 1, 1]


def test_grey_images_get_a_channel_axis_and_equal_sizes_one_array():
    grey = np.zeros((4, 6, 7), np.uint8)
    for images in (grey, list(grey), grey[..., None]):
        task = Task.from_arrays(images, [0, 1, 0, 1], images, [0, 1, 0, 1], class_names=["a", "b"])
        assert task.x_train.shape == task.x_test.shape == (4, 6, 7, 1)
        assert task.class_names == ("a", "b")


def test_labels_in_a_column_and_class_names_in_bytes():
    images = np.zeros((4, 6, 7), np.uint8)
    names = np.array([b"cat", "café".encode()])
    task = Task.from_arrays(images, [[0], [1], [0], [1]], images, np.array([[0], [1], [0], [1]]), class_names=names)
    assert task.y_train.tolist() == task.y_test.tolist() == [0, 1, 0, 1]
    assert task.class_names == ("cat", "café")


@pytest.mark.parametrize("name", [b"caf\xe9", "caf\udce9"])
def test_class_names_that_are_no_utf8_are_escaped(name):
    images = np.zeros((2, 6, 7), np.uint8)
    escaped, _ = Task.from_arrays(images, [0, 1], images, [0, 1], class_names=[name, "the"]).class_names
    assert escaped.startswith("caf\\") and escaped.encode("ascii")


X, Y = np.zeros((4, 6, 7, 3), np.uint8), [0, 1, 0, 1]
BAD = [
    (
        (X, [0, 10**9, 0, 1]),
        "no training image has label 2, 3, 4.*; labels must run from 0 to 1000000000 without a gap",
    ),
    ((X, np.array([0, 2**63 + 1, 0, 1], np.uint64)), "y_train has a label 9223372036854775809; labels must run from 0"),
    ((X, Y, X, [0, 10**9, 0, 1]), "y_test has label 1000000000, but the training labels end at 1"),
    ((X, [0, np.nan, 0, 1]), r"y_train is float64\[4\]; labels must be whole numbers"),
    ((X, [0, None, 0, 1]), r"y_train is object\[4\]; labels must be whole numbers"),
    ((X / 255, Y), "x_train is float64; images must be uint8, from 0 to 255"),
    ((X[..., :2], Y), r"x_train has shape \(4, 6, 7, 2\)"),
    ((X[0, 0], Y), r"x_train has shape \(7, 3\)"),
    ((X[:, :0], Y), r"x_train has shape \(4, 0, 7, 3\)"),
    ((X, [0.0, 1.0, 0.0, 1.0]), r"y_train is float64\[4\]; labels must be whole numbers"),
    ((X, np.eye(4, dtype=int)), r"y_train is int64\[4, 4\]"),
    ((X, [0, -1, 0, 1]), "y_train has a label -1; labels count from 0"),
    ((X, [0, 1, 0]), "the train part has 4 images and 3 labels"),
    ((X[:0], np.zeros(0, int)), "y_train is empty"),
    ((X, [0, 2, 0, 4]), "no training image has label 1, 3; labels must run from 0 to 4 without a gap"),
    ((X, [0, 0, 0, 0]), "one class only"),
    ((X, [0, 1, 0, 1], X), "give both x_test and y_test, or neither"),
    ((X, Y, X, [0, 1, 2, 1]), "y_test has label 2, but the training labels end at 1"),
    ((X, Y, X, [0, 1, 1]), "the test part has 4 images and 3 labels"),
    ((X, Y), "leaves a class without a training or a held-out image; the rarest has 2"),
]


@pytest.mark.parametrize(("arrays", "message"), BAD)
def test_refuses_arrays(arrays, message):
    with pytest.raises(LinftError, match=message):
        Task.from_arrays(*arrays)


def test_refuses_a_label_without_a_name():
    with pytest.raises(LinftError, match="y_train has label 1, but there are 1 class names"):
        Task.from_arrays(X, Y, class_names=["only"])


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (lambda t: t.few_shot(11), "needs 11 training images of each class; the rarest has 10"),
        (lambda t: t.few_shot(0), r"few_shot\(0\)"),
        (lambda t: t.subset(101), "a subset of 101 training images was asked for; there are 100"),
        (lambda t: t.subset(10, 51), "a subset of 51 test images was asked for; there are 50"),
        (lambda t: t.subset(0), "a subset of 0 training images"),
        (lambda t: t.holdout(0.01), "leaves a class without"),
        (lambda t: t.holdout(1.0), r"holdout\(1.0\)"),
    ],
)
def test_refuses_samples(task, sample, message):
    with pytest.raises(LinftError, match=message):
        sample(task)


def test_a_digest_is_of_what_has_bytes_of_its_own():
    with pytest.raises(TypeError, match="object is neither a number nor a text"):
        digest((1, object()))
