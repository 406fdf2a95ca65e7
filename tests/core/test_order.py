"""Which images a step takes, asked for in any order of steps."""

import numpy as np
import pytest

from linft.core import order as of_images
from linft.core.recipe import Recipe

RECIPE = Recipe(batch_size=6, steps=20, seed=3)


@pytest.mark.parametrize("recipe", [RECIPE, RECIPE.replace(shuffle=False), RECIPE.replace(batch_size=None)])
def test_order_is_the_recipes_at_any_step(recipe):
    batches, order = recipe.batches(64), recipe.order(64)
    for step in reversed(range(len(batches))):
        np.testing.assert_array_equal(order(step), batches[step])


def test_recipes_in_the_order_given_have_one_order_whatever_the_seed():
    given = RECIPE.replace(shuffle=False)
    assert given.order(64) == given.replace(seed=4).order(64) != RECIPE.order(64) != RECIPE.replace(seed=4).order(64)


def test_an_order_keeps_two_epochs_at_most(monkeypatch):
    drawn = []
    draw = np.random.default_rng
    monkeypatch.setattr(of_images.np.random, "default_rng", lambda seeds: drawn.append(seeds[1]) or draw(seeds))
    order = Recipe(batch_size=4, epochs=1000, seed=70).order(64)
    for step in (5, 16 * 900, 5, 16 * 900 + 3, 16 * 901):
        order(step)
    assert drawn == [0, 900, 901]
