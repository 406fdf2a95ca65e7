"""What `explicit` takes and refuses; that it is the training of the linearized network stands in test_runs.py."""

import drawn
import flax.linen as nn
import numpy as np
import pytest
from replayed import ADAM, CE, SE, assert_same, values

import linft
from linft import predict
from linft.core.errors import LinftError, Unavailable


def test_features_along_few_directions_are_those_of_the_kernel(model, task):
    expected = predict.feature_dual(model, task, outputs="low-rank", rank=1)(CE)
    assert_same(values(predict.explicit(model, task, at="features", rank=1)(CE)), values(expected))


def test_in_training_mode_it_is_what_the_kernel_says(digits):
    model, task = drawn.make(drawn.Normed()), digits.subset(10, 6, seed=0)
    recipe = SE.replace(batch_norm="train", steps=10, learning_rate=0.01)
    found, expected = (run(model, task, batch_norm="train")(recipe) for run in (predict.explicit, predict.dual))
    np.testing.assert_allclose(found.train_loss, expected.train_loss, rtol=1e-4)
    with pytest.raises(LinftError, match=r'no Jacobian predicts this recipe: .*; pass batch_norm="frozen" to get its'):
        predict.explicit(model, task, batch_norm="train")(SE)


def test_refuses_what_no_jacobian_follows(model, task):
    with pytest.raises(LinftError, match=r"mixed images .*; predict from a few draws, .* or use predict.nearest"):
        predict.explicit(model, task)(ADAM["Adam, decay to zero"].replace(mixup=0.1))


def test_says_what_memory_is_missing(model, task, monkeypatch):
    run = predict.explicit(model, task)
    monkeypatch.setattr("linft.ntk.tiled.memory.free_bytes", lambda: 1000)
    with pytest.raises(Unavailable, match=r"the rows of a minibatch .* fewer recipes at once, or train"):
        run(CE)
    with pytest.raises(Unavailable, match=r"the Jacobian .* use fewer images, or train the network linearized"):
        predict.explicit(model, task)


class Raw(nn.Module):
    """A parameter that is no layer's."""

    @nn.compact
    def __call__(self, x):
        raw = self.param("raw", nn.initializers.ones, (1, 4))
        return nn.Dense(3, name="head")(raw * nn.Dense(4, name="dense")(x.reshape(len(x), -1)))


def test_networks_with_parameters_that_are_no_layers_are_followed_too(task):
    model, recipe = linft.from_flax(Raw(), drawn.variables(Raw()), "head", (8, 8, 1)), ADAM["Adam, decay to zero"]
    found, real = predict.explicit(model, task)(recipe), linft.finetune(linft.linearize(model), task)(recipe)
    np.testing.assert_allclose(found.train_loss, real.train_loss, rtol=1e-3)
    assert predict.moving(model, task, anchors=2)(CE).certificate is not None
