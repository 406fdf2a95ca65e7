"""Grids: the papers' points, what files and words say, and the recipes of points."""

import numpy as np
import pytest

from linft.core.errors import LinftError
from linft.core.layer_settings import LayerSettings
from linft.core.recipe import Recipe
from linft.workflows.sweep.grid import GRIDS, RECIPES, Drawn, Grid, at, grid, varied

GROUPS = ("stem", "stage1", "stage2", "stage3", "head")


def test_li2020_is_6_rates_by_5_momenta_by_4_decays():
    points = grid("li2020").points()
    assert len(points) == 120 == len({tuple(p.values()) for p in points})
    assert points[0] == {"learning_rate": 0.1, "momentum": 0.99, "weight_decay": 0.0}
    assert {p["momentum"] for p in points} == {0.99, 0.95, 0.9, 0.8, 0.0}


def test_l2sp_is_appendix_c():
    """L2 has one strength for all weights; L2-SP has 0.01 for new ones."""
    points = grid("l2sp").points()
    held = [p for p in points if p["l2sp"] > 0]
    assert len(points) == 40 and len(held) == 20
    assert {p["weight_decay"] for p in held} == {0.01}
    assert {p["weight_decay"] for p in points if p["l2sp"] == 0} == {p["l2sp"] for p in held}
    recipe = at(held[0], Recipe(steps=1), LayerSettings(), GROUPS).recipe
    assert recipe.decay("stage3") == (0.1, 1.0) and recipe.decay("head") == (0.01, 0.0)


@pytest.mark.parametrize("groups", [2, 3, 5, 6, 23])
def test_every_point_of_plested2021_has_a_recipe(groups):
    names = tuple(f"g{i}" for i in range(groups))
    resolved = [at(values, Recipe(steps=1), LayerSettings(), names) for values in grid("plested2021", groups).points()]
    assert {point.reinit_groups for point in resolved} == set(range(1, min(3, groups - 1) + 1))
    for point in resolved:
        low = point.values.get("low_rate")
        if low is not None:
            assert point.recipe.multiplier(names[0]) == low / point.recipe.learning_rate < 1
            assert point.recipe.multiplier(names[-1]) == 1
        if "l2sp" in point.values:
            assert point.recipe.decay(names[0]) == (point.values["l2sp"], 1.0)
            assert point.recipe.decay(names[-1]) == (point.values["weight_decay"], 0.0)


def test_plested2021_counts_as_the_paper_on_its_own_network():
    """Of 22 layers below the head: 8, 10, 12 or 14 low ones; all, 10 or 14 held."""
    points = grid("plested2021", 23).points()
    assert {p["low_groups"] for p in points if "low_groups" in p} == {8, 10, 12, 14}
    assert {p["l2sp_lowest"] for p in points if "l2sp_lowest" in p} == {None, 10, 14}


def test_every_grid_names_its_recipe():
    assert set(RECIPES) == set(GRIDS)


def test_yaml_words_and_mappings_say_the_same(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("learning_rate: [0.1, 1e-3]\nmomentum: 0\nbatch_size: [16, null]\nnesterov: [true, false]\n")
    words = varied(["learning-rate=0.1,1e-3", "momentum=0", "batch_size=16,none", "nesterov=true,false"])
    mapping = {"learning_rate": (0.1, 0.001), "momentum": 0.0, "batch_size": [16, None], "nesterov": [True, False]}
    expected = grid(mapping).points()
    assert len(expected) == 8 and grid(words).points() == grid(file).points() == expected
    assert grid(file).name == "mine"


def test_blocks_follow_one_another_and_nothing_is_tried_twice():
    blocks = [{"momentum": [0.9, 0.9]}, {"momentum": [0.0, 0.9]}]
    assert grid(blocks).points() == [{"momentum": 0.9}, {"momentum": 0.0}]


def test_draws_lie_within_their_bounds_and_depend_on_the_seed_alone():
    settings = {"learning_rate": "log:1e-4:0.1", "momentum": "uniform:0:0.9", "low_groups": "int:1:3", "l2sp": [0, 1]}
    points = grid(settings, trials=200, seed=1).points()
    assert len(points) == 200
    rates, momenta, low = (np.array([p[name] for p in points]) for name in ("learning_rate", "momentum", "low_groups"))
    assert rates.min() >= 1e-4 and rates.max() <= 0.1 and 0.4 < np.mean(rates < 10**-2.5) < 0.6
    assert momenta.min() >= 0 and momenta.max() <= 0.9 and 0.4 < momenta.mean() < 0.5
    assert set(low.tolist()) == {1, 2, 3} and {p["l2sp"] for p in points} == {0.0, 1.0}
    assert grid(settings, trials=200, seed=1).points() == points != grid(settings, trials=200, seed=2).points()


def test_a_grid_can_be_read_from_its_json():
    for source in ("li2020", {"learning_rate": "log:1e-4:0.1", "momentum": [0, 0.9]}):
        made = grid(source, trials=5, seed=3)
        again = grid(made.as_json()["blocks"], trials=5, seed=3)
        assert again.points() == made.points()


BAD = {
    "unknown name": (lambda: grid("li2021"), "no grid 'li2021'.*choose among li2020, l2sp, plested2021"),
    "unknown setting": (lambda: grid({"rate": [1]}), "no setting 'rate' that a grid could vary"),
    "no number": (lambda: grid({"learning_rate": ["fast"]}), "learning_rate cannot be 'fast'; give a number"),
    "not whole": (lambda: grid({"steps": [1.5]}), "steps cannot be '1.5'; give a whole number or none"),
    "a truth for a number": (lambda: grid({"momentum": [True]}), "momentum cannot be 'True'"),
    "no values": (lambda: grid({"momentum": []}), "momentum has no values"),
    "no mapping": (lambda: grid([0.1]), "a grid is a mapping from settings to values"),
    "reversed bounds": (lambda: grid({"momentum": "uniform:1:0"}), "nothing can be drawn from uniform:1:0"),
    "log of zero": (lambda: Drawn("log", 0, 1), "must ascend, and be above 0 for log"),
    "fractions of groups": (lambda: grid({"low_groups": "uniform:1:3"}), "draw from int:1:3"),
    "no count of draws": (lambda: grid({"momentum": "uniform:0:1"}).points(), "give trials"),
    "twice": (
        lambda: varied(["batch-size=2", "batch_size=4"]),
        "batch_size is given twice; give all its values at once, such as batch_size=2,4",
    ),
    "no equals sign": (lambda: varied(["momentum"]), "give some such as learning_rate=0.1,0.01"),
    "a value the recipe refuses": (lambda: at({"momentum": 1.5}, Recipe(), LayerSettings(), ()), "momentum is 1.5"),
    "a name that is none": (lambda: grid({"schedule": "linear"}), "schedule cannot be 'linear'; give one of constant"),
    "depth without groups": (lambda: at({"frozen_lowest": 1}, Recipe(), LayerSettings(), ()), "pass layer_groups"),
    "half of a low rate": (lambda: at({"low_rate": 0.1}, Recipe(), LayerSettings(), GROUPS), "low_rate and low_groups"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses(case):
    make, message = BAD[case]
    with pytest.raises(LinftError, match=message):
        make()


def test_a_directory_is_no_grid(tmp_path):
    with pytest.raises(LinftError, match="or give a YAML file"):
        grid(tmp_path)
    assert isinstance(grid(Grid("made", ({"momentum": (0.9,)},))), Grid)
