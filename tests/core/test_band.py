"""What runs of several seeds span, and where a prediction lies in it."""

import numpy as np
import pytest

from linft.core.band import band, by_seed, held_against
from linft.core.base import Trajectory
from linft.core.errors import LinftError
from linft.core.recipe import Recipe


def run(*loss: float, diverged_at: int | None = None) -> Trajectory:
    steps, values = np.arange(len(loss)), np.array(loss)
    return Trajectory(
        steps, values, values + 1, -values, -values, distance={}, norm={}, seconds=0.0, diverged_at=diverged_at
    )


REAL = {0: run(3.0, 2.0, 1.0), 1: run(3.0, 1.0, 0.5), 2: run(3.0, 1.2, 0.9)}


def test_it_spans_every_curve_of_the_runs_that_did_not_diverge():
    found = band(REAL | {3: run(3.0, 99.0, diverged_at=2)})
    assert found is not None and (found.seeds, found.diverged, found.steps) == ([0, 1, 2], [3], [0, 1, 2])
    assert (found.train_loss.lowest, found.train_loss.highest) == ([3.0, 1.0, 0.5], [3.0, 2.0, 1.0])
    np.testing.assert_allclose(found.test_loss.mean, np.add(found.train_loss.mean, 1))
    assert found.test_accuracy.highest == [-3.0, -1.0, -0.5]
    assert band({0: run(3.0, diverged_at=1)}) is None


def test_what_is_right_for_every_seed_is_inside_without_error():
    real = band(REAL)
    assert real is not None
    found = held_against(real, real)
    assert found is not None and found.inside == 1.0 and found.error_over_width == 0.0


def test_an_error_is_measured_in_widths():
    real, off = band(REAL), band({seed: run(3.0, 2.4, 0.8) for seed in (0, 1)})
    assert real is not None and off is not None
    found = held_against(off, real)
    assert found is not None and found.inside == 0.5
    assert found.error_over_width == pytest.approx(np.mean([2.4 - 1.4, 0.0]) / np.mean([1.0, 0.5]))


def test_seeds_that_change_nothing_have_no_width():
    one = band({0: run(3.0, 2.0), 1: run(3.0, 2.0)})
    assert one is not None
    found = held_against(one, one)
    assert found is not None and found.inside == 1.0 and found.error_over_width is None
    start = band({0: run(3.0)})
    assert start is not None and held_against(start, start) is None


def test_seeds_follow_the_recipes_own():
    recipes = by_seed(Recipe(seed=5, momentum=0.5), 3, n=100)
    assert [recipe.seed for recipe in recipes.values()] == list(recipes) == [5, 6, 7]
    assert {recipe.momentum for recipe in recipes.values()} == {0.5}
    with pytest.raises(LinftError, match="seeds is 0; it must be 1 or more"):
        by_seed(Recipe(), 0, n=100)


FULL = {"batch_size": None, "batch_norm": "train"}


@pytest.mark.parametrize(
    "alike", [{"batch_size": 12}, {"shuffle": False}, FULL, FULL | {"shuffle": False, "bn_batch_size": 4}]
)
def test_seeds_that_make_no_difference_are_refused(alike):
    recipe = Recipe(batch_size=4).replace(**alike)
    with pytest.raises(LinftError, match="seeds make no difference to a full batch, or without shuffle"):
        by_seed(recipe, 2, n=12)
    assert len(by_seed(recipe, 1, n=12)) == 1
    assert len(by_seed(recipe.replace(augmentation="flip"), 2, n=12)) == len(by_seed(recipe, 2, n=12, draws=True)) == 2


def test_parts_of_a_full_batch_have_the_statistics_of_their_order():
    assert len(by_seed(Recipe(**FULL, bn_batch_size=4), 2, n=12)) == 2
