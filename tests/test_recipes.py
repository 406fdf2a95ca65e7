"""The papers' recipes have the papers' values."""

import numpy as np
import pytest

from linft.depth import Depth
from linft.errors import LinftError
from linft.recipes import NAMED, named

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
    assert named("deshpande2021", 1).rates == (0.01, 0.005, 0.001)
    assert named("plested2021-aircraft", 1).depth == Depth(3, head_rate=0.01, low_rate=0.01, low_groups=8)
    assert named("plested2021-dtd", 1).depth == Depth(2, l2sp_lowest=14)
    assert [named("bit-hyperrule", n).recipe.mixup for n in (19_999, 20_000)] == [0, 0.1]
    assert [named("bit-hyperrule", n).recipe.warmup_steps for n in (19_999, 20_000)] == [100, 500]


def test_unknown():
    with pytest.raises(LinftError, match="no recipe 'li2021'; choose among li2020, "):
        named("li2021", 1)
