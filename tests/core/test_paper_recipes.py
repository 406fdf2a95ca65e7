"""The papers' recipes have the papers' values."""

import numpy as np
import pytest

from linft.core.errors import LinftError
from linft.core.layer_settings import LayerSettings
from linft.core.paper_recipes import NAMED, named
from linft.models.registry import layer_groups
from linft.training import optimizer

# name, images -> batch, steps, first and last rate, steps after which the rate drops, momentum, Nesterov, decay, α
TABLE = {
    ("li2020", 2560): (256, 3000, 0.01, 1e-4, [1500, 2500], 0.9, True, 1e-4, 0),
    ("li2020-scratch", 2560): (256, 6000, 0.1, 1e-3, [4000, 5500], 0.9, True, 5e-4, 0),
    ("deshpande2021", 320): (32, 300, 0.01, 1e-4, [150, 250], 0.9, True, 1e-4, 0),
    ("expert", 5120): (512, 900, 0.1, 1e-3, [300, 600], 0.9, False, 1e-4, 0),
    ("plested2021", 320): (32, 300, 0.025, 2.5e-4, [150, 250], 0.9, True, 1e-4, 0),
    ("plested2021-caltech", 320): (32, 300, 0.0025, 2.5e-5, [150, 250], 0.9, True, 0.01, 0.01),
    ("plested2021-cars", 320): (32, 300, 0.025, 2.5e-4, [150, 250], 0.9, True, 1e-4, 0),
    ("plested2021-aircraft", 320): (32, 300, 0.025, 2.5e-4, [150, 250], 0.9, True, 1e-4, 0),
    ("plested2021-dtd", 320): (32, 300, 0.002, 2e-5, [150, 250], 0.9, True, 0.001, 0.001),
    ("l2sp2018", 640): (64, 9000, 0.01, 1e-3, [6000], 0.9, False, 0.01, 0.01),
    ("bit-hyperrule", 1000): (512, 500, 0.003, 3e-6, [200, 300, 400], 0.9, False, 0, 0),
    ("bit-hyperrule", 20_000): (512, 10_000, 0.003, 3e-6, [3000, 6000, 9000], 0.9, False, 0, 0),
    ("bit-hyperrule", 500_000): (512, 20_000, 0.003, 3e-6, [6000, 12_000, 18_000], 0.9, False, 0, 0),
}


@pytest.mark.parametrize(("name", "images"), TABLE)
def test_values(name, images):
    recipe = named(name, images).recipe
    rates = recipe.rates(images)[recipe.warmup_steps :]
    drops = recipe.warmup_steps + 1 + np.flatnonzero(np.diff(rates) < 0)
    found = recipe.batch_size, len(recipe.rates(images)), rates[0], rates[-1], drops.tolist()
    assert found[:2] == TABLE[name, images][:2] and found[4] == TABLE[name, images][4]
    np.testing.assert_allclose(found[2:4], TABLE[name, images][2:4])
    others = recipe.momentum, recipe.nesterov, recipe.weight_decay, recipe.l2sp
    assert others == TABLE[name, images][5:]


def test_every_recipe_is_in_the_table():
    assert {name for name, _ in TABLE} == set(NAMED)


def test_what_a_recipe_alone_does_not_say():
    assert named("li2020", 1).recipe.bn_batch_size == 32
    assert [name for name in NAMED if named(name, 1).recipe.convention == "decoupled"] == ["li2020", "li2020-scratch"]
    assert named("deshpande2021", 1).rates == (0.01, 0.005, 0.001)
    assert named("plested2021-aircraft", 1).depth == LayerSettings(3, head_rate=0.01, low_rate=0.01, low_groups=8)
    assert named("plested2021-dtd", 1).depth == LayerSettings(2, l2sp_lowest=14)
    assert [named("bit-hyperrule", n).recipe.mixup for n in (19_999, 20_000)] == [0, 0.1]
    assert [named("bit-hyperrule", n).recipe.warmup_steps for n in (19_999, 20_000)] == [100, 500]


NETWORKS = {
    "li2020": "resnetv2_101",
    "li2020-scratch": "resnetv2_101",
    "deshpande2021": "resnet101",
    "expert": "densenet169",
    "l2sp2018": "resnet101_v1",
    "bit-hyperrule": "resnetv2_50x1_bit",
} | {name: "inception_v4" for name in NAMED if name.startswith("plested2021")}


@pytest.mark.parametrize("name", NAMED)
def test_each_fits_its_own_network(name):
    groups, of = layer_groups(NETWORKS[name], {}), named(name, 1000)
    recipe = of.depth.apply(of.recipe, groups)
    partition = optimizer.kernel_groups(groups, recipe)
    for names in (groups, partition):
        numbers = optimizer.settings(recipe, tuple(names), 1000)
        by_path = {path: numbers.multipliers[g] * recipe.learning_rate for g in names for path in names[g]}
        assert list(by_path) == [path for paths in groups.values() for path in paths]
        low = [path for path, rate in by_path.items() if rate < 0.02]
        if of.depth.low_groups:
            assert low[:8] == [
                *(f"stem/block0/branch0_{i}" for i in range(3)), *(f"stem/block{i}" for i in (1, 2, 3)),
                "stage1/block0", "stage1/block1",
            ]  # fmt: skip
            assert low[8:] == (["head"] if of.depth.head_rate else [])
        pulled = [path for g in names for path in names[g] if numbers.pulls[g] == 1]
        held = {"plested2021-dtd": 14, "plested2021-caltech": 22, "l2sp2018": len(by_path) - 1}.get(name, 0)
        assert len(pulled) == held and pulled == list(by_path)[:held]


def test_the_last_layers_of_inception_v4_are_the_head_and_blocks_c():
    """Plested and others 2021, section 4.3: "an additional one or two Inception C blocks"."""
    assert list(layer_groups("inception_v4", {}))[-3:] == ["stage3.block2", "stage3.block3", "head"]


def test_unknown():
    with pytest.raises(LinftError, match="no recipe 'li2021'; choose among li2020, "):
        named("li2021", 1)
