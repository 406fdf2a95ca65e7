"""Class means are the means of the features, class by class."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linft
from linft.zoo.class_means import class_means


class Small(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10, name="head")(nn.relu(nn.Dense(6, name="hidden")(x.mean(3).reshape(len(x), -1))))


@pytest.fixture(scope="module")
def model():
    variables = Small().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    return linft.from_flax(Small(), variables, head="head", input_size=(8, 8, 3))


@pytest.mark.parametrize("batch", [7, 250])
def test_means_of_each_class(model, digits, batch):
    features = np.asarray(model.features(model.params, model.preprocess(digits.x_train)))
    means, counts = class_means(model, digits, batch)
    for label in range(10):
        members = digits.y_train == label
        assert counts[label] == members.sum()
        np.testing.assert_allclose(means[label], features[members].mean(0), rtol=1e-5, atol=1e-6)


def test_fine_tuning_drops_them(model, digits):
    model = model.replace(class_means=class_means(model, digits))
    tuned = linft.finetune(model, digits)(linft.Recipe(learning_rate=0.01, steps=1, batch_size=4)).model
    assert tuned.class_means is None  # they were of other weights
