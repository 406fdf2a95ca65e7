"""Relinearized predictions begin with real training, and go on as the network linearized where that ends."""

import numpy as np
import pytest
from replayed import CE, CURVES, RECIPES, SE, assert_same, values

import linft
from linft import predict
from linft.core.errors import LinftError


@pytest.mark.parametrize("name", [pytest.param("all at once", marks=pytest.mark.slow), "decay to the pretrained"])
def test_after_no_step_it_is_dual(model, tangent, split_tangent, task, name):
    recipe = RECIPES[name]
    found = predict.relinearized(model, task, after=0, record_every=10)(recipe)
    expected = predict.dual(tangent if recipe.decay_vectors else split_tangent, record_every=10)(recipe)
    assert_same(values(found), values(expected))


def test_it_goes_on_from_the_real_weights(model, task):
    """Without velocity and order, what follows is the training of the network linearized there."""
    recipe = CE.replace(momentum=0.0, nesterov=False, batch_size=None, steps=30)
    real = linft.finetune(model, task, record_every=10, until=20)(recipe)
    found = predict.relinearized(model, task, after=20, record_every=10)(recipe)
    rest = linft.finetune(linft.linearize(real.model), task, record_every=10)(recipe.replace(steps=10))
    for curve in CURVES:
        expected = np.append(getattr(real, curve), getattr(rest, curve)[-1])
        np.testing.assert_allclose(getattr(found, curve), expected, rtol=1e-9, err_msg=curve)
    assert_same({g: d[:3] for g, d in found.distance.items()}, real.distance)
    assert found.note == "linearized at step 20"


def test_a_run_that_diverges_before_is_cut_there(model, task):
    wild = SE.replace(learning_rate=1e3)
    found = predict.relinearized(model, task, after=20, record_every=5)(wild)
    real = linft.finetune(model, task, record_every=5)(wild)
    assert found.diverged_at == real.diverged_at is not None
    np.testing.assert_array_equal(found.steps, real.steps)


def test_refuses(model, task):
    for after in (-1, 50):
        with pytest.raises(
            LinftError, match=rf"after is {after}; it must be 0 or more and below the recipe's 50 steps"
        ):
            predict.relinearized(model, task, after=after)(CE)
