"""DELTA: attention is what zeroing a channel by hand costs, the penalty is the distance of feature maps."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import make

import linft
from linft.core import losses, trees
from linft.core.base import Model
from linft.core.errors import LinftError
from linft.models import registry
from linft.training import delta

WEIGHTS = {"stage1": jnp.array([0.1, 0.2, 0.3, 0.4, 0.0]), "stage2": jnp.full(6, 1 / 6)}


class Stage(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(self.width, (3, 3), strides=2, name="conv")(x)
        return nn.tanh(nn.BatchNorm(use_running_average=not train, name="norm")(x))


class Again(Stage):
    """Calls its parent's method, which an interceptor sees as a call of its own."""

    @nn.compact
    def __call__(self, x, train):
        return 2 * super().__call__(x, train)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = Stage(5, name="stage1")(x, train)
        x = Again(6, name="stage2")(x, train)
        return nn.Dense(10, name="head")(x.mean((1, 2)))


class Shared(nn.Module):
    """One layer at two places."""

    @nn.compact
    def __call__(self, x):
        twice = nn.Conv(1, (3, 3), name="twice")
        return nn.Dense(2, name="head")(twice(nn.tanh(twice(x))).reshape(len(x), -1))


class Flat(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="head")(nn.Dense(3, name="hidden")(x.reshape(len(x), -1)))


def moved(tree: trees.Tree, seed: int) -> trees.Tree:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda w: w + (0.1 * np.abs(rng.normal(size=w.shape))).astype(w.dtype), tree)


def double(tree: trees.Tree) -> trees.Tree:
    return jax.tree.map(lambda w: np.asarray(w, np.float64), tree)


@pytest.fixture(scope="module")
def model() -> Model:
    return make(Net())


@pytest.fixture(scope="module")
def distance(model) -> Callable:
    """Value and gradient of the penalty."""
    return jax.jit(jax.value_and_grad(delta.penalty(model, WEIGHTS)))


@pytest.fixture(scope="module")
def x(model, digits) -> jax.Array:
    return jnp.asarray(digits.x_train / 127.5 - 1, jnp.float32)


@pytest.fixture(scope="module")
def increases(model, digits) -> dict[str, jax.Array]:
    return delta.loss_increases(model, digits)


@pytest.mark.parametrize(
    "name, layers",
    [
        ("cifar_densenet22", ("stem", "stage1", "stage2", "stage3")),
        ("wrn16_4", ("stem", "stage1", "stage2", "stage3")),
        ("alexnet", ("stem", "stage1", "stage2")),  # its third stage is a perceptron
    ],
)
def test_layers_are_the_groups_that_give_maps(name, layers):
    assert delta.feature_layers(registry.build(name, 5, registry.shapes(name, 5))) == layers


def test_a_group_of_modules_gives_its_last_map(model):
    assert delta.feature_layers(model) == ("stage1", "stage2")
    joined = model.replace(layer_groups={"body": ("stage1", "stage2"), "head": ("head",)})
    assert delta.feature_layers(joined) == ("stage2",)


def test_penalty_is_zero_where_it_starts(model, x, distance):
    value, gradient = distance(model.params, model.batch_stats, x)
    assert float(value) < 1e-12  # of the same weights as constants and as arguments, to round-off
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) < 1e-5
    assert float(distance(moved(model.params, 2), model.batch_stats, x)[0]) > 1e-3


def test_penalty_is_zero_where_it_starts_in_half_precision(model, x):
    params, x = jax.tree.map(lambda w: w.astype(jnp.bfloat16), (model.params, x))
    assert float(jax.jit(delta.penalty(model, WEIGHTS))(params, model.batch_stats, x)) < 1e-6


def test_penalty_is_the_weighted_distance_of_captured_maps(model, digits, x64):
    model = model.replace(params=double(model.params), batch_stats=double(model.batch_stats))
    x = digits.x_train[:4] / 127.5 - 1
    params, batch_stats = moved(model.params, 2), moved(model.batch_stats, 3)

    @jax.jit
    def maps(params, batch_stats):
        variables = {"params": params, "batch_stats": batch_stats}
        _, kept = Net().apply(variables, x, capture_intermediates=True, mutable=["intermediates"])  # pyright: ignore
        return {path: kept["intermediates"][path]["__call__"][-1] for path in WEIGHTS}

    now, start = double(maps(params, batch_stats)), double(maps(model.params, model.batch_stats))
    expected = 0.0
    for path, w in WEIGHTS.items():
        n, h, width, channels = now[path].shape
        for j in range(channels):
            expected += float(w[j]) * ((now[path][..., j] - start[path][..., j]) ** 2).sum() / (2 * n * h * width)
    distance = jax.jit(jax.value_and_grad(delta.penalty(model, {path: w.astype(float) for path, w in WEIGHTS.items()})))
    value, gradient = distance(params, batch_stats, x)
    np.testing.assert_allclose(value, expected, rtol=1e-10)

    direction, step = moved(jax.tree.map(np.zeros_like, params), 4), 1e-5
    ends = [jax.tree.map(lambda w, d, s=s: w + s * d, params, direction) for s in (step, -step)]
    ahead, behind = (float(distance(end, batch_stats, x)[0]) for end in ends)
    products = jax.tree.map(lambda g, d: float((np.asarray(g) * d).sum()), gradient, direction)
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), (ahead - behind) / (2 * step), rtol=1e-7)


def test_descent_on_the_penalty_returns_and_the_penalty_holds_back(model, x, digits, distance):
    def descend(gradient_of, params, rate):
        return jax.tree.map(lambda w, g: w - rate * np.asarray(g), params, gradient_of(params))

    params, values = moved(model.params, 5), []
    for _ in range(4):
        values.append(float(distance(params, model.batch_stats, x)[0]))
        params = descend(lambda p: distance(p, model.batch_stats, x)[1], params, 0.1)
    assert values[0] > values[1] > values[2] > values[3]

    @jax.jit
    @jax.grad
    def of_fit(params):
        return losses.mean_loss("cross_entropy", model.apply(params, x), jnp.asarray(digits.y_train))

    def of_both(params):
        return jax.tree.map(jnp.add, of_fit(params), distance(params, model.batch_stats, x)[1])

    free, held = model.params, model.params
    for _ in range(5):
        free, held = descend(of_fit, free, 0.1), descend(of_both, held, 0.1)
    free, held = (float(distance(params, model.batch_stats, x)[0]) for params in (free, held))
    assert 0 < held < 0.9 * free


def zeroed_by_hand(model: Model, path: str, channel: int) -> trees.Tree:
    """Weights of the network in which nothing reads a channel: the layer above has a kernel of zeros for it."""
    above = {"stage1": "stage2/conv", "stage2": "head"}[path]
    kernel = np.array(trees.get(model.params, above)["kernel"])
    kernel[..., channel, :] = 0
    return trees.put(model.params, f"{above}/kernel", kernel)


@pytest.mark.parametrize("path", ["stage1", "stage2"])
def test_increases_are_those_of_a_network_that_reads_no_such_channel(model, digits, increases, path):
    probe = model.with_head(10, init="probe", task=digits)
    x, y = probe.preprocess(digits.x_train), jnp.asarray(digits.y_train)
    loss = jax.jit(lambda params: losses.mean_loss("squared_error", probe.apply(params, x), y))
    expected = [loss(zeroed_by_hand(probe, path, j)) - loss(probe.params) for j in range(len(WEIGHTS[path]))]
    np.testing.assert_allclose(increases[path], jnp.stack(expected), rtol=1e-4, atol=1e-6)
    assert float(jnp.abs(increases[path]).max()) > 1e-3


def test_increases_do_not_depend_on_the_batch_nor_on_the_head(model, digits, increases):
    other = delta.loss_increases(model.with_head(3, init="zeros"), digits, ["stage2"], batch=7)
    np.testing.assert_allclose(other["stage2"], increases["stage2"], rtol=1e-4, atol=1e-6)


def test_a_channel_that_nothing_reads_costs_nothing(model, digits):
    deaf = model.replace(params=zeroed_by_hand(model, "stage1", 2))
    increase = delta.loss_increases(deaf, digits, ["stage1"])["stage1"]
    assert abs(float(increase[2])) < 1e-7
    assert float(jnp.abs(increase).max()) > 1e-3


def test_attention_is_the_softmax_in_units_of_five_deviations(model, digits, increases):
    weights = delta.attention(model, digits)
    assert list(weights) == ["stage1", "stage2"]
    for path, w in weights.items():
        increase = np.asarray(increases[path], np.float64)
        e = np.exp(increase / (5 * increase.std()))
        np.testing.assert_allclose(w, e / e.sum(), rtol=1e-5)
        np.testing.assert_allclose(w.sum(), 1, rtol=1e-6)
        assert int(w.argmax()) == int(increase.argmax())


def test_attention_is_uniform_where_no_channel_is_read(model, digits):
    deaf = model.params["stage2"]["conv"]["kernel"] * 0
    deaf = model.replace(params=trees.put(model.params, "stage2/conv/kernel", deaf))
    np.testing.assert_allclose(delta.attention(deaf, digits, ["stage1"])["stage1"], np.full(5, 0.2), rtol=1e-6)


@pytest.mark.parametrize(
    "use, message",
    [
        (lambda m, t: delta.feature_maps(m, ["stage9"]), "'stage9' gives a feature map .* 0 times"),
        (lambda m, t: delta.feature_maps(m, ["head"]), "'head' gives a feature map .* 0 times"),
        (lambda m, t: delta.feature_maps(make(Shared()), ["twice"]), "'twice' gives a feature map .* 2 times"),
        (lambda m, t: delta.feature_layers(make(Flat())), "no layer group of Flat"),
        (lambda m, t: delta.penalty(m, {}), "one layer or more"),
        (lambda m, t: delta.penalty(m, {"stage1": jnp.ones(4)}), r"stage1 has 5 channels and weights of shape \(4,\)"),
        (lambda m, t: delta.penalty(linft.linearize(m), WEIGHTS), "inside a transformation"),
        (lambda m, t: delta.attention(linft.linearize(m), t), "inside a transformation"),
        (lambda m, t: delta.attention(m, t, batch=0), "the batch is 0"),
    ],
)
def test_refused(model, digits, use, message):
    with pytest.raises(LinftError, match=message):
        use(model, digits)
