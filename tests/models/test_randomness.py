"""Which networks draw random numbers: those whose training mode depends on its key."""

import drawn
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linft
from linft.models.randomness import draws


class Dropped(nn.Module):
    """A hidden layer of which a share is dropped."""

    rate: float

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x.reshape(len(x), -1))
        x = nn.Dropout(self.rate, deterministic=not train)(nn.Dense(8, name="hidden")(x))
        return nn.Dense(3, name="head")(x)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_it_is_whether_the_key_makes_a_difference(rate):
    module = Dropped(rate)
    model = linft.from_flax(module, drawn.variables(module, (4, 4, 1)), "head", (4, 4, 1))
    assert model.forward_train is not None
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4, 4, 1)))
    one, other = (model.forward_train(model.params, model.batch_stats, x, jax.random.key(k))[0] for k in (0, 1))
    assert draws(model) == (rate > 0) == bool(jnp.any(one != other))


def test_a_network_without_training_mode_draws_nothing():
    module = Dropped(0.5)
    model = linft.from_flax(module, drawn.variables(module, (4, 4, 1)), "head", (4, 4, 1))
    assert not draws(linft.linearize(model))


def test_a_network_of_dropped_paths_draws_under_adapters_too():
    """Whose drop path is set before they are added."""
    model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=2)
    dropping = linft.models.with_options(model, drop_path_rate=0.5)
    assert draws(linft.lora(dropping, 1, key=jax.random.key(1))) and not draws(model)
