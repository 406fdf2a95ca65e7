"""Predicted accuracy, fold by fold, against tangents that are computed for each fold from its images."""

import jax
import numpy as np
import pytest
from narrow import small_resnet
from sklearn.model_selection import StratifiedKFold

import linft
from linft.predict.tangent import tangent
from linft.scores.arrays import Undefined
from linft.scores.predicted_accuracy import RECIPE, part, predicted_accuracy

RATES = (0.01, 0.3)


@pytest.fixture(scope="module")
def model():
    return small_resnet(10, width=4).with_head(10, jax.random.key(1))


@pytest.fixture(scope="module")
def task():
    digits = linft.load_task("digits").max_per_class(4)
    return digits.replace(x_test=digits.x_train[:2], y_test=digits.y_train[:2])


@pytest.fixture(scope="module")
def whole(model, task):
    return tangent(model, task, groups=["head"])


def test_it_is_what_each_fold_foretells(model, task, whole):
    right = np.zeros(len(RATES))
    recipe = RECIPE.replace(epochs=4, batch_size=8)
    for train, held in StratifiedKFold(2, shuffle=True, random_state=3).split(task.y_train, task.y_train):
        fold = task.replace(
            x_train=task.x_train[train], y_train=task.y_train[train],
            x_test=task.x_train[held], y_test=task.y_train[held],
        )  # fmt: skip
        run = linft.predict.dual(tangent(model, fold, groups=["head"]))
        right += [run(recipe.replace(learning_rate=rate, seed=3)).test_accuracy[-1] * len(held) for rate in RATES]
    ours = predicted_accuracy(whole, task.y_train, seed=3, recipe=recipe, rates=RATES, folds=2)
    assert ours == pytest.approx(right.max() / 40)


def test_parts_are_rows_and_columns(whole):
    train, test = np.array([5, 1, 8]), np.array([0, 2])
    some = part(whole, train, test)
    full = whole.kernel_train.total()
    np.testing.assert_array_equal(some.kernel_train.total(), full[train][:, :, train])
    np.testing.assert_array_equal(some.kernel_test.total(), full[test][:, :, train])
    np.testing.assert_array_equal(some.labels_test, whole.labels_train[test])


def test_a_class_with_one_image_is_trained_on_and_not_judged(whole, task):
    few = np.array([*range(0, 8), 39])  # two classes of four, one of one
    some = part(whole, few, few)
    labels = task.y_train[few]
    value = predicted_accuracy(some, labels, recipe=RECIPE.replace(epochs=4), folds=2)
    assert value * 8 == pytest.approx(round(value * 8))


def test_nothing_can_be_held_out(whole):
    few = np.arange(0, 40, 4)
    with pytest.raises(Undefined, match="no class has two images"):
        predicted_accuracy(part(whole, few, few), np.arange(10))


def test_a_rate_that_diverges_counts_for_nothing(whole, task):
    recipe = RECIPE.replace(epochs=4)
    good = predicted_accuracy(whole, task.y_train, recipe=recipe, rates=(0.01,), folds=2)
    assert predicted_accuracy(whole, task.y_train, recipe=recipe, rates=(0.01, 1e6), folds=2) == good > 0
