"""Recipes of the papers, by name: a table of functions of the number of training images.

All values can be overridden: `named("li2020", n).recipe.replace(learning_rate=0.1)`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from linft.core.errors import LinftError
from linft.core.layer_settings import LayerSettings
from linft.core.recipe import Recipe


@dataclass(frozen=True)
class PaperRecipe:
    """A recipe as a paper states it, with what a recipe alone does not say."""

    recipe: Recipe
    depth: LayerSettings = LayerSettings()
    rates: tuple[float, ...] = ()
    """Learning rates that the paper chooses among."""


def named(name: str, n: int) -> PaperRecipe:
    """The recipe of that name for n training images.

    Raises:
      LinftError: no recipe has this name.

    Example:
      >>> recipe = named("deshpande2021", 1000).recipe
      >>> recipe.epochs, recipe.batch_size, recipe.rates(1000)[[0, -1]].round(5).tolist()
      (30, 32, [0.01, 0.0001])
    """
    if name not in NAMED:
        raise LinftError(f"no recipe {name!r}; choose among {', '.join(NAMED)}")
    return NAMED[name](n)


def li2020(n: int) -> PaperRecipe:
    """Li and others 2020, section 3.1; batch-norm statistics of the 32 images of each device (footnote 1).

    Momentum and decay are those of their eq. 1 and 2, where decay passes by the velocity: at momentum m it is
    1 − m of the strength that the same λ has in torch or MXNet, which convention="coupled" gives.
    """
    del n
    recipe = Recipe(
        learning_rate=0.01,
        weight_decay=1e-4,
        convention="decoupled",
        batch_size=256,
        bn_batch_size=32,
        epochs=300,
        **_steps(150 / 300, 250 / 300),
        batch_norm="train",
        augmentation="li2020_resized_crop",
    )
    return PaperRecipe(recipe, rates=(0.1, 0.05, 0.01, 0.005, 0.001, 0.0001))


def li2020_scratch(n: int) -> PaperRecipe:
    """Li and others 2020, appendix, "Scratch training HPO": the better of its two decays."""
    changes = _steps(400 / 600, 550 / 600)
    recipe = li2020(n).recipe.replace(learning_rate=0.1, weight_decay=5e-4, epochs=600, **changes)
    return PaperRecipe(recipe, rates=(0.1, 0.2, 0.5))


def deshpande2021(n: int) -> PaperRecipe:
    """Deshpande and others 2021, section 4.2; augmentation, not stated, as in their training of experts."""
    del n
    recipe = Recipe(
        learning_rate=0.01,
        weight_decay=1e-4,
        batch_size=32,
        epochs=30,
        **_steps(15 / 30, 25 / 30),
        batch_norm="train",
        augmentation="resized_crop",
    )
    return PaperRecipe(recipe, rates=(0.01, 0.005, 0.001))


def expert(n: int) -> PaperRecipe:
    """Deshpande and others 2021, section 4.1: how a source model is trained, by PyTorch's script for ImageNet."""
    del n
    recipe = Recipe(
        learning_rate=0.1,
        nesterov=False,
        weight_decay=1e-4,
        batch_size=512,
        epochs=90,
        **_steps(30 / 90, 60 / 90),
        batch_norm="train",
        augmentation="resized_crop",
    )
    return PaperRecipe(recipe)


def plested2021(n: int) -> PaperRecipe:
    """Plested and others 2021, Table 2, for tasks unlike the source; the schedule, not stated, of `deshpande2021`."""
    recipe = deshpande2021(n).recipe.replace(learning_rate=0.025)
    return PaperRecipe(recipe, rates=(0.025, 0.02, 0.015, 0.0025, 0.002, 0.0015, 0.001))


def plested2021_caltech(n: int) -> PaperRecipe:
    """Plested and others 2021, Table 6, Caltech-256-30: a low rate, and L2-SP on all that is transferred."""
    base = plested2021(n)
    return replace(base, recipe=base.recipe.replace(learning_rate=0.0025, l2sp=0.01, weight_decay=0.01))


def plested2021_cars(n: int) -> PaperRecipe:
    """Plested and others 2021, Table 6, Stanford Cars: a high rate, lower on the 8 lowest groups (of Inception v4)."""
    return replace(plested2021(n), depth=LayerSettings(low_rate=0.01, low_groups=8))


def plested2021_aircraft(n: int) -> PaperRecipe:
    """Plested and others 2021, Table 6, FGVC Aircraft: three new groups, and three rates."""
    return replace(plested2021(n), depth=LayerSettings(reinit_groups=3, head_rate=0.01, low_rate=0.01, low_groups=8))


def plested2021_dtd(n: int) -> PaperRecipe:
    """Plested and others 2021, Table 6, DTD: two new groups, L2-SP on the 14 lowest."""
    base = plested2021(n)
    recipe = base.recipe.replace(learning_rate=0.002, l2sp=0.001, weight_decay=0.001)
    return replace(base, recipe=recipe, depth=LayerSettings(reinit_groups=2, l2sp_lowest=14))


def l2sp2018(n: int) -> PaperRecipe:
    """Li, Grandvalet and Davoine 2018 as Li and others 2020, appendix C: one α of four there, β = 0.01."""
    del n
    recipe = Recipe(
        learning_rate=0.01,
        nesterov=False,
        l2sp=0.01,
        weight_decay=0.01,
        batch_size=64,
        steps=9000,
        **_steps(6000 / 9000),
        batch_norm="train",
        augmentation="short_side_crop_flip",
    )
    return PaperRecipe(recipe, rates=(0.02, 0.01, 0.005, 0.001, 0.0001))


def bit_hyperrule(n: int) -> PaperRecipe:
    """Kolesnikov and others 2020, section 3.3, with the steps of their published code.

    500, 10,000 or 20,000 steps for fewer than 20,000, fewer than 500,000, or more images; mixup from
    20,000 on. Their rule for the resolution (128 pixels for images under 96×96, else 480) is a choice
    of the model's input size.
    """
    warmup, *drops, steps = (
        (100, 200, 300, 400, 500)
        if n < 20_000
        else (500, 3000, 6000, 9000, 10_000)
        if n < 500_000
        else (500, 6000, 12_000, 18_000, 20_000)
    )
    recipe = Recipe(
        learning_rate=0.003,
        nesterov=False,
        batch_size=512,
        steps=steps,
        warmup_steps=warmup,
        **_steps(*(drop / steps for drop in drops)),
        batch_norm="train",
        augmentation="short_side_crop_flip",
        mixup=0.1 if n >= 20_000 else 0.0,
    )
    return PaperRecipe(recipe)


def _steps(*drop_at: float) -> dict[str, Any]:
    """A tenth of the rate from each of these fractions of the run on."""
    return {"schedule": "step", "drop_factor": 0.1, "drop_at": drop_at}


NAMED: dict[str, Callable[[int], PaperRecipe]] = {
    "li2020": li2020,
    "li2020-scratch": li2020_scratch,
    "deshpande2021": deshpande2021,
    "expert": expert,
    "plested2021": plested2021,
    "plested2021-caltech": plested2021_caltech,
    "plested2021-cars": plested2021_cars,
    "plested2021-aircraft": plested2021_aircraft,
    "plested2021-dtd": plested2021_dtd,
    "l2sp2018": l2sp2018,
    "bit-hyperrule": bit_hyperrule,
}
