"""A recipe refuses nonsense, and is the only source of order and of learning rates."""

import importlib.util
import math
import subprocess
import sys

import numpy as np
import pytest

from linft.core.errors import LinftError
from linft.core.recipe import Recipe


@pytest.fixture(scope="module")
def unchecked():
    """Recipe as users have it: under pytest the type checker refuses a wrong choice before Recipe can."""
    spec = importlib.util.spec_from_file_location(
        "unchecked_recipe", importlib.util.find_spec("linft.core.recipe").origin
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Recipe


BAD = [
    ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
    ({"learning_rate": math.nan}, "learning_rate is nan"),
    ({"learning_rate": math.inf}, "learning_rate is inf"),
    ({"momentum": 1.0}, r"momentum is 1.0; it must lie in \[0, 1\)"),
    ({"momentum": -0.1}, "momentum is -0.1"),
    ({"optimizer": "lion"}, "optimizer is 'lion'; choose among sgd, adam"),
    ({"clip_norm": 0.0}, "clip_norm is 0.0; it must be above 0"),
    ({"schedule": "linear"}, "schedule is 'linear'; choose among constant, step, cosine"),
    ({"drop_at": (0.5, 30)}, "drop_at is .*; give fractions of the run"),
    ({"drop_factor": -1.0}, "drop_factor is -1.0"),
    ({"warmup_steps": -1}, "warmup_steps is -1"),
    ({"weight_decay": -1e-4}, "weight_decay is -0.0001; it must be 0 or more"),
    ({"l2sp": math.inf}, "l2sp is inf; it must be 0 or more"),
    ({"ema": 1.0}, r"ema is 1.0; it must lie in \[0, 1\)"),
    ({"label_smoothing": 1.0}, r"label_smoothing is 1.0; it must lie in \[0, 1\)"),
    ({"mixup": -1.0}, "mixup is -1.0; it must be 0 or more"),
    ({"delta": -1.0}, "delta is -1.0; it must be 0 or more"),
    ({"bn_batch_size": 1}, "bn_batch_size is 1; it must be 2 or more, or None"),
    ({"convention": "torch"}, "convention is 'torch'; choose among coupled, decoupled"),
    ({"rate_multipliers": (("head", -1.0),)}, "rate multipliers must be 0 or more"),
    ({"batch_size": 0}, "batch_size is 0; it must be 1 or more, or None"),
    ({"steps": -1}, "steps is -1"),
    ({"epochs": -0.5}, "epochs is -0.5"),
    ({"steps": 1, "epochs": 1}, "give steps or epochs, not both"),
    ({"loss": "hinge"}, "loss is 'hinge'; choose among cross_entropy, squared_error"),
    ({"batch_norm": "none"}, "batch_norm is 'none'; choose among frozen, train, reestimated"),
    ({"augmentation": "mixup"}, "augmentation is 'mixup'; choose among none, flip, crop, crop_flip"),
    ({"seed": -1}, r"seed is -1; it must lie in \[0, 2³¹\)"),
]


@pytest.mark.parametrize(("settings", "message"), BAD)
def test_refuses(unchecked, settings, message):
    with pytest.raises(LinftError, match=message):
        unchecked(**settings)


def test_a_run_needs_steps_or_epochs():
    with pytest.raises(LinftError, match="give steps or epochs"):
        Recipe().batches(10)


def test_an_epoch_is_a_permutation_less_the_short_batch():
    batches = Recipe(batch_size=4, epochs=3.0).batches(10)
    assert batches.shape == (6, 4)
    epochs = batches.reshape(3, 8)
    assert all(len(set(epoch)) == 8 for epoch in epochs.tolist())
    assert set(epochs.ravel()) == set(range(10))  # what one epoch leaves out, another takes
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3


@pytest.mark.parametrize(
    ("settings", "n", "shape"),
    [
        ({"batch_size": None, "steps": 2}, 7, (2, 7)),
        ({"batch_size": 50, "steps": 2}, 7, (2, 7)),  # never more than there are
        ({"batch_size": 3, "epochs": 2.5}, 12, (10, 3)),
        ({"batch_size": 5, "epochs": 1.0}, 5, (1, 5)),
        ({"batch_size": 5, "steps": 0}, 12, (0, 5)),
    ],
)
def test_number_of_batches(settings, n, shape):
    recipe = Recipe(**settings)
    assert recipe.batches(n).shape == shape
    assert (recipe.num_steps(n), recipe.batch_size_for(n)) == shape


def test_order_depends_on_the_seed_and_not_on_the_length():
    recipe = Recipe(batch_size=3, steps=20, seed=4)
    long = recipe.batches(11)
    np.testing.assert_array_equal(recipe.batches(11), long)
    np.testing.assert_array_equal(recipe.replace(steps=8).batches(11), long[:8])
    assert (recipe.replace(seed=5).batches(11) != long).any()


def test_without_shuffling_the_order_is_as_given():
    np.testing.assert_array_equal(
        Recipe(batch_size=2, steps=4, shuffle=False).batches(5), [[0, 1], [2, 3], [0, 1], [2, 3]]
    )


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({}, [1, 1, 1, 1, 1]),
        ({"schedule": "step", "drop_at": (0.4, 0.8), "drop_factor": 0.5}, [1, 1, 0.5, 0.5, 0.25]),
        ({"schedule": "cosine"}, [(1 + math.cos(math.pi * t / 5)) / 2 for t in range(5)]),
        ({"warmup_steps": 4}, [0.25, 0.5, 0.75, 1, 1]),
        ({"schedule": "step", "drop_at": (0.4,), "warmup_steps": 4}, [0.25, 0.5, 0.075, 0.1, 0.1]),
    ],
)
def test_schedules(settings, rates):
    recipe = Recipe(learning_rate=0.3, batch_size=2, steps=5, **settings)
    np.testing.assert_allclose(recipe.rates(10), 0.3 * np.array(rates), rtol=1e-12)


def test_settings_of_a_group():
    recipe = Recipe(
        weight_decay=0.1, decay_groups=("stage*",), frozen_groups=("stem",),
        rate_multipliers=(("*", 0.5), ("stem", 3.0), ("head", 10.0)),
    )  # fmt: skip
    groups = ("stem", "stage1", "head")
    assert [recipe.multiplier(g) for g in groups] == [0.0, 0.5, 10.0]
    assert [recipe.decay(g) for g in groups] == [(0.0, 0.0), (0.1, 0.0), (0.0, 0.0)]
    held = recipe.replace(l2sp=0.3, l2sp_groups=("stem",))
    assert [held.decay(g) for g in groups] == [(0.3, 1.0), (0.1, 0.0), (0.0, 0.0)]
    recipe.check_groups(groups)
    with pytest.raises(LinftError, match=r"no layer group matches 'stage\*'; this model has stem, head"):
        recipe.check_groups(("stem", "head"))


def test_replacing_steps_drops_epochs_and_the_reverse():
    assert Recipe(epochs=2.0).replace(steps=5) == Recipe(steps=5)
    assert Recipe(steps=5).replace(epochs=2.0) == Recipe(epochs=2.0)
    with pytest.raises(LinftError, match="not both"):
        Recipe().replace(steps=5, epochs=2.0)


def test_a_recipe_is_described_without_importing_jax():
    subprocess.run([sys.executable, "-c", "import linft.core.recipe, sys; assert 'jax' not in sys.modules"], check=True)
