"""A linearized model is the first-order expansion of its model, of the logits or of the features."""

import importlib.util

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linft
from linft.core import trees
from linft.core.base import Model
from linft.core.errors import LinftError
from linft.models.linearize import linearize

SIZE = (4, 4, 1)


class Net(nn.Module):
    """Batch norm included, which must stay frozen."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(3, name="pixels")(x)
        x = nn.tanh(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        return nn.Dense(2, name="head")(nn.tanh(nn.Dense(4, name="hidden")(x.reshape(len(x), -1))))


class Linear(nn.Module):
    """A model that is linear in its parameters."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="head")(x.reshape(len(x), -1))


def make(module: nn.Module) -> Model:
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *SIZE)))
    return linft.from_flax(module, jax.tree.map(lambda v: v.astype(float), variables), "head", SIZE)


def somewhere(model: Model, seed: int) -> trees.Tree:
    """A direction in weight space."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape)), model.params)


def away(model: Model, *steps: tuple[float, trees.Tree]) -> trees.Tree:
    """w0 + Σ a d."""
    params = model.params
    for size, direction in steps:
        params = jax.tree.map(lambda w, d, size=size: w + size * d, params, direction)
    return params


@pytest.fixture
def model(x64) -> Model:
    return make(Net())


@pytest.fixture
def x(x64) -> jax.Array:
    return jnp.asarray(np.random.default_rng(9).normal(size=(5, *SIZE)))


def assert_equal(got, expected) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("at", ["logits", "features"])
def test_it_is_the_model_at_the_pretrained_weights(model, x, at):
    linear = linearize(model, at=at)
    assert_equal(linear.apply(model.params, x), model.apply(model.params, x))
    assert_equal(linear.features(model.params, x), model.features(model.params, x))


def test_it_is_the_tangent_everywhere(model, x):
    """Its derivative in a direction is the model's, at the pretrained weights and away from them."""
    linear, direction = linearize(model), somewhere(model, 0)
    for params in (model.params, away(model, (1.0, somewhere(model, 1)))):
        for ours, theirs in ((linear.apply, model.apply), (linear.features, model.features)):
            got = jax.jvp(lambda p, f=ours: f(p, x), (params,), (direction,))[1]
            assert_equal(got, jax.jvp(lambda p, f=theirs: f(p, x), (model.params,), (direction,))[1])


def test_it_is_linear_in_the_weights(model, x):
    linear, one, other = linearize(model), somewhere(model, 0), somewhere(model, 1)
    start = linear.apply(model.params, x)

    def moved(*steps):
        return linear.apply(away(model, *steps), x) - start

    assert_equal(moved((2.0, one), (-3.0, other)), 2 * moved((1.0, one)) - 3 * moved((1.0, other)))
    assert jnp.abs(moved((2.0, one)) - (model.apply(away(model, (2.0, one)), x) - start)).max() > 0.1


def test_a_linear_model_is_its_own_linearization(x):
    model = make(Linear())
    params = away(model, (1.0, somewhere(model, 0)))
    for at in ("logits", "features"):
        assert_equal(linearize(model, at=at).apply(params, x), model.apply(params, x))


def test_linear_features_under_the_exact_head(model, x):
    """f = (φ0 + Jφ (w − w0)) W + b, with the Jacobian of the features written out."""
    bilinear, params = linearize(model, at="features"), away(model, (1.0, somewhere(model, 0)))
    jacobian = jax.jacobian(lambda p: model.features(p, x))(model.params)
    step = trees.subtract(params, model.params)
    moves = jax.tree.map(lambda j, d: jnp.tensordot(j, d, axes=d.ndim), jacobian, step)
    features = model.features(model.params, x) + sum(jax.tree.leaves(moves))
    assert_equal(bilinear.features(params, x), features)
    assert_equal(bilinear.apply(params, x), features @ params["head"]["kernel"] + params["head"]["bias"][None])


def test_the_head_alone_moves_as_in_the_model(model, x):
    only_head = trees.put(model.params, "head", somewhere(model, 0)["head"])
    assert_equal(linearize(model, at="features").apply(only_head, x), model.apply(only_head, x))
    assert_equal(linearize(model).apply(only_head, x), model.apply(only_head, x))  # the logits are linear in the head


def test_a_new_head_over_linear_features(model, x):
    """The features' expansion does not depend on the head, so it may be replaced afterwards."""
    before = linearize(model.with_head(3, jax.random.key(1)), at="features")
    after = linearize(model, at="features").with_head(3, jax.random.key(1))
    params = away(before, (1.0, somewhere(before, 0)))
    assert_equal(after.apply(params, x), before.apply(params, x))


def test_it_has_no_training_mode(model):
    images, labels = np.random.default_rng(0).integers(0, 256, (4, *SIZE)).astype(np.uint8), [0, 1, 0, 1]
    task = linft.Task.from_arrays(images, labels, images, labels)
    recipe = linft.Recipe(steps=1, batch_norm="train")
    assert model.forward_train is not None
    for at in ("logits", "features"):
        with pytest.raises(LinftError, match="has no training mode"):
            linft.finetune(linearize(model, at=at), task)(recipe)


def test_it_is_named_and_cannot_be_saved_as_its_architecture(model):
    assert [linearize(model, at=at).name for at in ("logits", "features")] == [
        "Net (linearized)", "Net (features linearized)"]  # fmt: skip
    assert linearize(model.replace(architecture={"name": "net", "options": {}})).architecture is None


def test_refuses_another_expansion(model):
    """As users see it: under pytest the type checker refuses first."""
    spec = importlib.util.spec_from_file_location(
        "unchecked_linearization", importlib.util.find_spec("linft.models.linearize").origin
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(LinftError, match=r"linearize\(at='weights'\); choose among logits, features"):
        module.linearize(model, at="weights")


def test_refuses_a_head_put_on_afterwards(model, x):
    other = linearize(model).with_head(3, jax.random.key(0))
    with pytest.raises(LinftError, match="change the head before linearize"):
        other.apply(other.params, x)
