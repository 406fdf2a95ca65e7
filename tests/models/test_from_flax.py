"""Any linen module becomes a Model unchanged, or is refused with the reason; its head is replaceable."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linft.core import trees
from linft.core.errors import LinftError
from linft.core.task import Task
from linft.models import from_flax

SIZE = (6, 6, 3)


class Normed(nn.Module):
    """Batch norm, mode by `train`, as in most examples."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(8, (3, 3), name="conv")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        return nn.Dense(4, name="linear")(x.mean((1, 2)))


class Dropped(nn.Module):
    """Layer norm and dropout, mode by `deterministic`, the head deep inside and without a bias."""

    @nn.compact
    def __call__(self, x, deterministic):
        x = nn.LayerNorm(name="norm")(nn.Conv(8, (3, 3), strides=(2, 2), name="patches")(x))
        x = nn.Dropout(0.5)(nn.gelu(x), deterministic=deterministic)
        return Top(name="top")(x.reshape(len(x), -1))


class Top(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, use_bias=False, name="linear")(nn.tanh(nn.Dense(8, name="hidden")(x)))


class Plain(nn.Module):
    """No mode, layers made in setup, and a parameter of its own outside of any layer."""

    def setup(self):
        self.linear = nn.Dense(4)
        self.conv = nn.Conv(8, (3, 3))
        self.scale = self.param("scale", nn.initializers.ones, (1, 1, 1, 3))

    def __call__(self, x):
        return self.linear(nn.relu(self.conv(self.scale * x)).max((1, 2)))


# module, path of its head, layer groups in call order, mode for evaluation and for training
USERS = {
    "batch norm": (Normed(), "linear", ["conv", "norm", "linear"], {"train": False}, {"train": True}),
    "dropout": (Dropped(), "top/linear", ["patches", "norm", "top"], {"deterministic": True}, {"deterministic": False}),
    "no mode": (Plain(), "linear", ["conv", "linear", "scale"], {}, None),
}


@functools.cache
def initialised(module):
    mode = {"deterministic": True} if isinstance(module, Dropped) else {}
    return jax.jit(lambda x: module.init(jax.random.key(0), x, **mode))(jnp.zeros((1, *SIZE)))


def randomised(variables):
    """Every leaf moved at random, so that a forgotten bias or statistic would show."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: abs(leaf + rng.normal(0, 0.3, leaf.shape).astype(np.float32)), variables)


@pytest.fixture(params=USERS, scope="module")
def user(request):
    """(module, variables, Model, row of USERS) of a user's module with nothing left at its initial value."""
    module, head, groups, evaluate, train = USERS[request.param]
    variables = randomised(initialised(module))
    return module, variables, from_flax(module, variables, head, SIZE), (head, groups, evaluate, train)


X = jax.random.normal(jax.random.key(2), (5, *SIZE))


def test_apply_is_the_module_in_evaluation_mode(user):
    module, variables, model, (head, groups, evaluate, _) = user
    expected = module.apply(variables, X, **evaluate)
    np.testing.assert_allclose(model.apply(model.params, X), expected, rtol=1e-5)
    np.testing.assert_allclose(model.apply(model.params, X[:1]), expected[:1], rtol=1e-5)
    weights = trees.get(variables["params"], head)
    composed = model.features(model.params, X) @ weights["kernel"] + weights.get("bias", jnp.zeros(4))[None, :]
    np.testing.assert_allclose(composed, expected, rtol=1e-5)
    assert (model.num_classes, model.name) == (4, type(module).__name__)
    assert list(model.layer_groups) == groups
    trees.labels(model.params, model.layer_groups)  # every parameter is in exactly one group


def test_training_mode_is_the_modules(user):
    module, variables, model, (_, _, _, train) = user
    if train is None:
        assert model.forward_train is None
        return
    key = jax.random.key(3)
    logits, statistics = model.forward_train(model.params, model.batch_stats, X, key)
    expected, changed = module.apply(variables, X, **train, rngs={"dropout": key}, mutable=["batch_stats"])
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, statistics, changed.get("batch_stats", {}))
    assert (logits != model.apply(model.params, X)).any()


@pytest.mark.parametrize("init", ["normal", "zeros"])
def test_a_new_head_takes_the_old_ones_place(user, init):
    _, _, model, (head, _, _, train) = user
    new = model.with_head(6, jax.random.key(4), init, scale=0.5)
    assert list(new.params) == list(model.params)
    weights = trees.get(new.params, head)
    assert set(weights) == {"kernel", "bias"} and weights["kernel"].shape == (8, 6)
    logits = new.apply(new.params, X)
    expected = model.features(model.params, X) @ weights["kernel"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert (new.num_classes, model.num_classes) == (6, 4)
    if init == "zeros":
        assert not logits.any()
    else:
        assert 0.3 < weights["kernel"].std() < 0.7 and not weights["bias"].any()
    if train is not None:
        assert new.forward_train(new.params, new.batch_stats, X, jax.random.key(3))[0].shape == (5, 6)


def test_a_probe_head_is_the_ridge_solution(x64, digits):
    module = Normed()
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    variables = jax.tree.map(lambda v: v.astype("float64"), variables)
    model = from_flax(module, variables, "linear", (8, 8, 1))
    ridge = 0.03
    probe = model.with_head(digits.num_classes, init="probe", task=digits, ridge=ridge)

    features = np.asarray(model.features(model.params, model.preprocess(digits.x_train)))
    n, d = features.shape
    deviation = np.sqrt(features.var(axis=0).mean())
    # The intercept takes no penalty, so it is a column of ones whose row below is zero.
    design = np.vstack([np.c_[features, np.ones(n)], np.c_[np.sqrt(n * ridge) * deviation * np.eye(d), np.zeros(d)]])
    targets = np.vstack([np.eye(digits.num_classes)[digits.y_train], np.zeros((d, digits.num_classes))])
    expected = np.linalg.lstsq(design, targets)[0]
    np.testing.assert_allclose(probe.params["linear"]["kernel"], expected[:-1], atol=1e-9)
    np.testing.assert_allclose(probe.params["linear"]["bias"], expected[-1], atol=1e-9)


class Scaled(nn.Module):
    """Something comes after the last Dense."""

    @nn.compact
    def __call__(self, x):
        return 3 * nn.Dense(4, name="linear")(nn.Conv(8, (3, 3), name="conv")(x).mean((1, 2)))


class Twice(nn.Module):
    """The same Dense is called twice."""

    @nn.compact
    def __call__(self, x):
        linear = nn.Dense(3, name="linear")
        return linear(linear(x.mean((1, 2))))


class Dense(nn.Module):
    """A Dense for each pixel."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="linear")(x).mean((1, 2))


class Maps(nn.Module):
    """It gives maps, as a network for segmentation does."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="linear")(x)


class Pair(nn.Module):
    """It gives its features too."""

    @nn.compact
    def __call__(self, x):
        x = x.mean((1, 2))
        return nn.Dense(4, name="linear")(x), x


LAYERS = "the layers are conv, linear, norm"
NOT_LAST = r"the module's logits are not head\(features\) with the Dense at"
BAD = [
    (Normed(), "head", f"no Dense layer at head='head'; {LAYERS}"),
    (Normed(), "linear/kernel", f"no Dense layer at head='linear/kernel'; {LAYERS}"),
    (Normed(), "norm", f"no Dense layer at head='norm'; {LAYERS}"),
    (Normed(), "", f"no Dense layer at head=''; {LAYERS}"),
    (Normed(), "conv", r"head='conv' has a kernel of shape \(3, 3, 3, 8\); it must be a Dense layer"),
    (Dropped(), "top/hidden", f"{NOT_LAST} 'top/hidden'; something comes after it"),
    (Scaled(), "linear", f"{NOT_LAST} 'linear'; something comes after it"),
    (Twice(), "linear", "the head 'linear' is called 2 times in a forward pass; it must be once"),
    (Dense(), "linear", r"the input of the head has shape \(2, 6, 6, 3\); it must be \[n d\]"),
    (Maps(), "linear", r"the module gives .*; it must give logits \[n c\]"),
    (Pair(), "linear", r"the module gives .*; it must give logits \[n c\]"),
]


@pytest.mark.parametrize(("module", "head", "message"), BAD)
def test_refuses(module, head, message):
    with pytest.raises(LinftError, match=message) as error:
        from_flax(module, initialised(module), head, SIZE)
    assert len(str(error.value).splitlines()) == 1


def test_refuses_a_wrong_head_among_numpy_weights_too():
    with pytest.raises(LinftError, match=f"no Dense layer at head='linear/kernel'; {LAYERS}"):
        from_flax(Normed(), jax.tree.map(np.asarray, initialised(Normed())), "linear/kernel", SIZE)


def test_refuses_weights_that_are_not_numbers():
    variables = jax.tree.map(lambda leaf: leaf + jnp.nan, initialised(Normed()))
    with pytest.raises(LinftError, match="the module gives logits that are not finite on random input"):
        from_flax(Normed(), variables, "linear", SIZE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 1}, "a head needs 2 classes or more, not 1"),
        ({"classes": 3}, r'with_head\(init="normal"\) needs a key: pass jax.random.key\(0\)'),
        ({"classes": 3, "init": "probe"}, "needs the task, with as many classes as the head"),
        ({"classes": 3, "init": "probe", "task": "two classes"}, "needs the task, with as many classes as the head"),
    ],
)
def test_refuses_a_head(arguments, message):
    model = from_flax(Normed(), initialised(Normed()), "linear", SIZE)
    if "task" in arguments:
        images = np.zeros((4, *SIZE), np.uint8)
        arguments = arguments | {"task": Task.from_arrays(images, [0, 1, 0, 1], images, [0, 1, 0, 1])}
    with pytest.raises(LinftError, match=message):
        model.with_head(**arguments)
