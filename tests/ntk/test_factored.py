"""Layers of which one backward pass serves all outputs are found, and no others are taken for them."""

import drawn
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linft
from linft.core.base import Model
from linft.core.errors import LinftError
from linft.core.preprocessing import Preprocessing
from linft.ntk.empirical import empirical_ntk, labels_of
from linft.ntk.layerwise import jacobians, plan
from linft.ntk.layerwise.last_convolution import last_convolution, last_convolution_gradients

SIZE, CLASSES = (8, 8, 3), 4


class Gated(nn.Module):
    """Every channel of the last convolution also says how much of all others goes on."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 3), name="conv")(x))
        x = x * jax.nn.softmax(x.mean((1, 2), keepdims=True))
        return nn.Dense(CLASSES, name="linear")(x.mean((1, 2)))


class Flat(nn.Module):
    """Every position of the last convolution is a feature of its own."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES, name="linear")(
            nn.relu(nn.Conv(6, (3, 3), strides=4, name="conv")(x)).reshape(len(x), -1)
        )


class Beside(nn.Module):
    """The channels of the last convolution come second among the features."""

    @nn.compact
    def __call__(self, x):
        first = nn.relu(nn.Conv(5, (3, 3), name="first")(x))
        second = nn.relu(nn.Conv(3, (3, 3), name="second")(first))
        third = nn.relu(nn.Conv(4, (1, 1), name="third")(first))
        return nn.Dense(CLASSES, name="linear")(jnp.concatenate([third, second, x], -1).mean((1, 2)))


def user(module: nn.Module) -> Model:
    return linft.from_flax(module, drawn.variables(module, SIZE), "linear", SIZE)


def registered(name: str, **options) -> Model:
    return linft.models.create(name, CLASSES, jax.random.key(0), Preprocessing(SIZE), **options)


FOUND = {
    "resnet": (lambda: registered("resnet18", blocks=(1,), width=4), {"stage1/block0/norm2": 0}),
    "densenet": (lambda: registered("cifar_densenet22", layers=1, growth=2), None),
    "concatenated": (lambda: user(Beside()), {"second": 4, "third": 0}),
    "gated": (lambda: user(Gated()), {}),
    "flat": (lambda: user(Flat()), {}),
}


@pytest.mark.parametrize("name", FOUND)
def test_finds_layers_of_which_each_channel_feeds_one_feature(name):
    make, expected = FOUND[name]
    model = make()
    x = jax.random.normal(jax.random.key(1), (5, *SIZE))
    labels = labels_of(model, None)
    layers = plan.plan(model, x)
    asked = jacobians.with_candidates(
        model, jacobians.Wanted(layers, tuple(labels.items()), model.head, "full", frozenset())
    )
    features = model.features(model.params, x)
    settled, offsets, _ = jacobians.settle(model, asked, features.shape[1], x, jnp.eye(CLASSES))
    got = {layers[i].path: int(o) for i, o in zip(sorted(settled.factored), offsets, strict=True)}
    if expected is None:
        assert got and all(o >= 0 for o in got.values())
    else:
        assert got == expected


@pytest.mark.parametrize("name", [pytest.param("resnet", marks=pytest.mark.slow), "concatenated"])
@pytest.mark.parametrize("outputs", ["full", "trace", "pseudo"])
def test_the_kernel_is_that_of_as_many_backward_passes(name, outputs, monkeypatch):
    model, x = FOUND[name][0](), jax.random.normal(jax.random.key(1), (5, *SIZE))
    got = empirical_ntk(model, x, outputs=outputs, draws=2)
    monkeypatch.setattr("linft.ntk.layerwise.factored.offset", lambda *_: None)
    apart = empirical_ntk(model, x, outputs=outputs, draws=2)
    for group, block in apart.blocks.items():
        np.testing.assert_allclose(got.blocks[group], block, rtol=0, atol=2e-6 * np.linalg.norm(block))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in ("densenet", "gated") else n for n in FOUND]
)
def test_one_pass_gives_the_last_convolutions_gradients(name):
    model, x = FOUND[name][0](), jax.random.normal(jax.random.key(1), (5, *SIZE))
    last = last_convolution(model)
    logits, features, gradients = last_convolution_gradients(model)(x)
    np.testing.assert_allclose(logits, model.apply(model.params, x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(features, model.features(model.params, x), rtol=1e-5, atol=1e-5)
    by_path = {path: (path,) for path in labels_of(model, {"all": tuple(model.params)})}
    expected = empirical_ntk(model, x, outputs="trace", groups=by_path).blocks[f"{last}/kernel"]
    np.testing.assert_allclose(gradients @ gradients.T, expected, rtol=0, atol=2e-6 * np.linalg.norm(expected))


def test_a_network_without_a_convolution_is_refused():
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x):
            hidden = nn.relu(nn.Dense(3, name="hidden")(x.mean((1, 2))))
            return nn.Dense(CLASSES, name="linear")(hidden)

    with pytest.raises(LinftError, match="has no convolution that trains; score it by the kernel of a layer group"):
        last_convolution(user(Plain()))
