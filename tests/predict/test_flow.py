"""Gradient flow is what the replay tends to as its learning rate goes to zero at a fixed time."""

import numpy as np
import pytest

from linft import predict
from linft.core.recipe import Recipe

TIME = 2.0  # learning rate × steps / (1 − momentum)
FULL = Recipe(momentum=0.0, nesterov=False, batch_size=None, learning_rate=TIME / 100, steps=100)
CURVES = ("train_loss", "test_loss")


@pytest.fixture(scope="module")
def flow(tangent):
    return predict.gradient_flow(tangent, record_every=10**6)  # the first and the last step


def error(flow, tangent, recipe: Recipe) -> float:
    """Largest difference of losses at the end."""
    replayed, flowing = predict.dual(tangent, record_every=recipe.steps)(recipe), flow(recipe)
    return max(abs(getattr(replayed, name)[-1] - getattr(flowing, name)[-1]) for name in CURVES)


def finer(recipe: Recipe, by: int) -> Recipe:
    return recipe.replace(learning_rate=recipe.learning_rate / by, steps=recipe.steps * by)


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="plain"),
        pytest.param({"rate_multipliers": (("conv", 0.3), ("head", 3.0))}, id="group rates", marks=pytest.mark.slow),
        pytest.param({"frozen_groups": ("conv", "hidden")}, id="frozen groups", marks=pytest.mark.slow),
    ],
)
def test_the_replay_tends_to_it_in_proportion_to_the_rate(flow, tangent, loss, settings):
    recipe = FULL.replace(loss=loss, **settings)
    coarse, fine = error(flow, tangent, recipe), error(flow, tangent, finer(recipe, 4))
    assert fine > 1e-5 and 3 < coarse / fine < 5.5


def test_momentum_is_a_change_of_time(flow, tangent):
    """And minibatches and schedules enter through the time alone."""
    plain = FULL.replace(loss="squared_error")
    heavy = plain.replace(momentum=0.9, learning_rate=plain.learning_rate / 10)
    halved = plain.replace(schedule="step", drop_at=(0.5,), drop_factor=0.0, learning_rate=2 * plain.learning_rate)
    expected = flow(plain)
    for recipe in (heavy, heavy.replace(nesterov=True), plain.replace(batch_size=3), halved):
        for name in CURVES:
            np.testing.assert_allclose(getattr(flow(recipe), name)[-1], getattr(expected, name)[-1], rtol=1e-9)
    assert error(flow, tangent, finer(heavy, 50)) < 1e-2 * (expected.train_loss[0] - expected.train_loss[-1])


def test_says_why_not():
    assert predict.why_not_flow(FULL) is None
    recipe = FULL.replace(weight_decay=0.1)
    assert predict.why_not_flow(recipe) == "weight decay has no closed flow here"
    both = predict.why_not_flow(recipe.replace(optimizer="adam"))
    assert both == "Adam is not linear in the gradient; weight decay has no closed flow here"
