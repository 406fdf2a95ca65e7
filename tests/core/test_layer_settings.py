"""Counts of layer groups become the names that a recipe knows."""

import pytest

from linft.core.errors import LinftError
from linft.core.layer_settings import LayerSettings
from linft.core.recipe import Recipe

GROUPS = ("stem", "stage1", "stage2", "stage3", "head")
RECIPE = Recipe(learning_rate=0.02, steps=1, weight_decay=0.1)


def rates(depth: LayerSettings, recipe: Recipe = RECIPE) -> list[float]:
    applied = depth.apply(recipe, GROUPS)
    return [round(applied.learning_rate * applied.multiplier(g), 12) for g in GROUPS]


def decays(depth: LayerSettings, recipe: Recipe) -> list[tuple[float, float]]:
    applied = depth.apply(recipe, GROUPS)
    return [applied.decay(g) for g in GROUPS]


def test_three_learning_rates():
    assert rates(LayerSettings(head_rate=0.01, low_rate=0.005, low_groups=2)) == [0.005, 0.005, 0.02, 0.02, 0.01]
    assert rates(LayerSettings()) == [0.02] * 5


def test_the_lowest_are_frozen():
    assert rates(LayerSettings(frozen_lowest=3)) == [0, 0, 0, 0.02, 0.02]


def test_l2_sp_holds_what_is_transferred_or_less_and_the_rest_decays_to_zero():
    held = RECIPE.replace(l2sp=0.3)
    assert decays(LayerSettings(), held) == [(0.3, 1)] * 4 + [(0.1, 0)]
    assert decays(LayerSettings(reinit_groups=2), held) == [(0.3, 1)] * 3 + [(0.1, 0)] * 2
    assert decays(LayerSettings(l2sp_lowest=1), held) == [(0.3, 1)] + [(0.1, 0)] * 4
    assert decays(LayerSettings(l2sp_lowest=1), RECIPE) == [(0.1, 0)] * 5


def test_a_recipes_own_settings_come_last():
    assert (
        rates(LayerSettings(low_rate=0.01, low_groups=1), RECIPE.replace(rate_multipliers=(("stem", 3.0),)))[0] == 0.06
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reinit_groups": 6}, "reinit_groups is 6; the model has 5: stem, stage1, stage2, stage3, head"),
        ({"low_rate": 0.1, "low_groups": 6}, "low_groups is 6"),
        ({"reinit_groups": 3, "l2sp_lowest": 3}, "l2sp_lowest is 3, but only 2 layer groups are pretrained"),
        ({"low_groups": 2}, "low_rate and low_groups belong together"),
        ({"low_rate": 0.1}, "low_rate and low_groups belong together"),
        ({"frozen_lowest": -1}, "frozen_lowest is -1"),
        ({"head_rate": -1.0}, "head_rate is -1.0"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(LinftError, match=message):
        LayerSettings(**settings).apply(RECIPE.replace(l2sp=0.1), GROUPS)
