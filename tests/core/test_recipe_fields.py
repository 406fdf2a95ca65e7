"""Every field of a recipe has its place, and what cannot be predicted is said and replaced by one table."""

import dataclasses
import subprocess
import sys
from typing import get_args

import jax
import numpy as np
import pytest

from linft.core.recipe import BatchNorm, Recipe
from linft.core.recipe_fields import FIELDS, UNDER, nearest, structure, why_not
from linft.training import optimizer

N = 12
GROUPS = ("stem", "head", "head/vectors")
BASE = Recipe(
    steps=6, batch_size=4, weight_decay=0.1, l2sp=0.2, l2sp_groups=("stem",), schedule="step", loss="squared_error"
)
OTHER = {
    "learning_rate": 0.5, "momentum": 0.5, "nesterov": False, "optimizer": "adam", "clip_norm": 1.0, "ema": 0.9,
    "schedule": "cosine", "drop_at": (0.2,), "drop_factor": 0.5, "warmup_steps": 3, "convention": "decoupled",
    "weight_decay": 0.3, "decay_groups": ("stem",), "l2sp": 0.4, "l2sp_groups": ("head",), "decay_vectors": False,
    "rate_multipliers": (("head", 3.0),), "frozen_groups": ("stem",), "batch_size": 3, "steps": 7, "epochs": 3.0,
    "loss": "cross_entropy", "label_smoothing": 0.1, "batch_norm": "train", "bn_batch_size": 2, "augmentation": "flip",
    "mixup": 0.2, "delta": 0.1, "shuffle": False, "seed": 3,
}  # fmt: skip


def test_every_field_has_its_place():
    names = [field.name for field in dataclasses.fields(Recipe)]
    assert list(FIELDS) == names, "give a new field of Recipe its row in recipe_fields.FIELDS"
    assert list(OTHER) == names


def numbers(recipe):
    return [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(optimizer.settings(recipe, GROUPS, N))]


@pytest.mark.parametrize("name", OTHER)
def test_a_field_goes_where_the_table_says(name):
    changed = BASE.replace(**{name: OTHER[name]})
    place = FIELDS[name].place
    assert (structure(changed) != structure(BASE)) == (place == "structure")
    assert optimizer.settings(changed, GROUPS, N).structure == structure(changed)
    if place == "structure":
        assert getattr(structure(changed), name) == OTHER[name]
    if place == "order":
        order = [recipe.batches(N).tolist() for recipe in (BASE, changed)]
        assert order[0] != order[1]
    else:
        assert (numbers(changed) != numbers(BASE)) == (place == "number")
        np.testing.assert_array_equal(changed.batches(N), BASE.batches(N))


@pytest.mark.parametrize("batch_norm", get_args(BatchNorm))
@pytest.mark.parametrize("by", UNDER)
@pytest.mark.parametrize("name", OTHER)
def test_the_nearest_recipe_is_one_that_is_predicted(by, name, batch_norm):
    recipe = BASE.replace(**{name: OTHER[name]})
    near, note = nearest(recipe, by, N, batch_norm)
    assert by == "linearized" or near.batch_norm == batch_norm
    assert why_not(near, by, N, batch_norm) is None and nearest(near, by, N, batch_norm) == (near, "")
    assert (why_not(recipe, by, N, batch_norm) is None) == (near == recipe) == (note == "")
    assert near.num_steps(N) == recipe.num_steps(N)
    left = {f.name for f in dataclasses.fields(Recipe) if getattr(near, f.name) != getattr(recipe, f.name)}
    assert left - {"steps", "epochs"} == {part.partition("=")[0] for part in note[9:].split(", ") if part}


REASONS = {
    ("kernel", "frozen"): (
        Recipe(batch_norm="reestimated", mixup=0.1),
        "re-estimated batch norm is not the kernel's; mixed images are not the images of the kernel",
    ),
    ("kernel", "train"): (
        Recipe(batch_norm="frozen", optimizer="adam"),
        "Adam is not linear in the gradient; batch norm is frozen, and the kernel's is in training mode",
    ),
    ("flow", "frozen"): (Recipe(weight_decay=0.1, l2sp=0.1), "weight decay has no closed flow here"),
    ("flow", "train"): (
        Recipe(weight_decay=0.1),
        "weight decay has no closed flow here; batch norm is frozen, and the kernel's is in training mode",
    ),
    ("closed form", "frozen"): (
        Recipe(schedule="step", warmup_steps=2, convention="decoupled", weight_decay=0.1, loss="squared_error"),
        "the learning rate is not constant; decay is decoupled",
    ),
    ("closed form", "train"): (
        Recipe(batch_norm="train", batch_size=6),
        "the batch is not all 12 images; the loss is not squared error",
    ),
    ("linearized", "frozen"): (
        Recipe(batch_norm="train", clip_norm=1.0, delta=0.1),
        "DELTA's penalty is not linear in the features",
    ),
}


@pytest.mark.parametrize(("by", "batch_norm"), REASONS)
def test_reasons_are_said_once(by, batch_norm):
    recipe, reasons = REASONS[by, batch_norm]
    assert why_not(recipe, by, N, batch_norm) == reasons


def test_what_makes_no_difference_is_let_be():
    recipe = Recipe(steps=2, convention="decoupled", batch_size=50, loss="squared_error")
    assert nearest(recipe, "closed form", 50) == (recipe, "")
    assert why_not(recipe, "closed form", 51) == "the batch is not all 51 images"


def test_the_table_is_read_without_importing_jax():
    subprocess.run(
        [sys.executable, "-c", "import linft.core.recipe_fields, sys; assert 'jax' not in sys.modules"], check=True
    )
