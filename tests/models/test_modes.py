"""Modules as people have them, with modes of any name and random streams; or one line that says why not."""

import importlib.util
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import freeze
from flax.training.train_state import TrainState

import linft
from linft import predict
from linft.core.errors import LinftError
from linft.models import from_flax, modes

SIZE = (8, 8, 3)
X = jax.random.normal(jax.random.key(2), (4, *SIZE))
KEY = jax.random.key(3)
LOW = jnp.bfloat16


def body(self, x, train, dtype=None):
    x = nn.Conv(4, (3, 3), name="conv", dtype=dtype)(x)
    x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm", dtype=dtype)(x)).mean((1, 2))
    return nn.Dense(3, name="head", dtype=dtype)(x)


class Network(nn.Module):
    """What the others are, told its mode by `train`."""

    @nn.compact
    def __call__(self, x, train=False):
        return body(self, x, train)


class Attribute(nn.Module):
    train: bool = True

    @nn.compact
    def __call__(self, x):
        return body(self, x, self.train)


class Merged(nn.Module):
    """Told by a call or by an attribute, not by both."""

    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x, deterministic=None):
        return body(self, x, not nn.merge_param("deterministic", self.deterministic, deterministic))


class Needed(nn.Module):
    @nn.compact
    def __call__(self, x, is_train):
        return body(self, x, is_train)


class Inference(nn.Module):
    @nn.compact
    def __call__(self, x, *, inference=False):
        return body(self, x, not inference)


class Worded(nn.Module):
    @nn.compact
    def __call__(self, x, mode="train"):
        return body(self, x, {"train": True, "eval": False}[mode])


class Counted(nn.Module):
    """Told by a number that it must have."""

    @nn.compact
    def __call__(self, x, phase):
        return body(self, x, phase == 1)


class Listed(nn.Module):
    """Its fields cannot be hashed."""

    widths: Any
    train: bool = False

    @nn.compact
    def __call__(self, x):
        return body(self, x, self.train)


WORDS = {"evaluation": {"mode": "eval"}, "training": {"mode": "train"}}
PHASES = {"evaluation": {"phase": 0}, "training": {"phase": 1}}
TOLD = {
    "attribute in training mode": (Attribute(), {}),
    "attribute in evaluation mode": (Attribute(train=False), {}),
    "merged, by call": (Merged(), {}),
    "merged, by attribute": (Merged(deterministic=False), {}),
    "is_train": (Needed(), {}),
    "inference": (Inference(), {}),
    "said": (Worded(), WORDS),
    "said, and needed": (Counted(), PHASES),
    "unhashable": (Listed([4]), {}),
}


@pytest.fixture(scope="module")
def variables():
    rng = np.random.default_rng(1)
    drawn = jax.jit(Network().init)(jax.random.key(0), X)
    return jax.tree.map(lambda leaf: abs(leaf + rng.normal(0, 0.3, leaf.shape).astype(np.float32)), drawn)


@pytest.mark.parametrize("kind", TOLD)
def test_both_modes_are_the_modules_own(kind, variables):
    module, said = TOLD[kind]
    model = from_flax(module, variables, "head", SIZE, **said)
    np.testing.assert_allclose(model.apply(model.params, X), Network().apply(variables, X), rtol=1e-5)
    logits, statistics = model.forward_train(model.params, model.batch_stats, X, KEY)
    expected, changed = Network().apply(variables, X, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, statistics, changed["batch_stats"])


def test_equal_modules_share_their_functions(variables):
    one, other = (from_flax(Attribute(), jax.tree.map(lambda v, s=s: s * v, variables), "head", SIZE) for s in (1, 2))
    assert one.forward is other.forward and one.forward_train is other.forward_train
    assert from_flax(Network(), variables, "head", SIZE).forward is not one.forward


class Plain(nn.Module):
    """No mode and no statistics."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3), name="conv", dtype=self.dtype)(x)).mean((1, 2))
        return nn.Dense(3, name="head", dtype=self.dtype)(x)


@pytest.fixture(scope="module")
def plain():
    return jax.jit(Plain().init)(jax.random.key(0), X)


@pytest.mark.parametrize("given", ["bare", "frozen", "frozen and bare"])
def test_params_alone_are_taken(given, plain):
    forms = {"bare": plain["params"], "frozen": freeze(plain), "frozen and bare": freeze(plain["params"])}
    model = from_flax(Plain(), forms[given], "head", SIZE)
    np.testing.assert_allclose(model.apply(model.params, X), Plain().apply(plain, X), rtol=1e-5)
    assert model.with_head(5, KEY).num_classes == 5


class Dropping(nn.Module):
    """Whole images are dropped, by a stream of their own; so is what dropout drops."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Conv(8, (3, 3), name="conv")(x)).mean((1, 2))
        if train:
            x = x * jax.random.bernoulli(self.make_rng("drop_path"), 0.5, (len(x), 1))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(3, name="head")(x)


def test_every_random_stream_has_a_key(plain):
    model = from_flax(Dropping(), plain, "head", SIZE)
    images = jnp.ones((64, *SIZE))
    logits = [np.asarray(model.forward_train(model.params, {}, images, jax.random.key(k))[0]) for k in (0, 0, 1)]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert (logits[0] != logits[2]).any()
    # With one key for both streams an image that is kept would lose the same units every time.
    kept = logits[0][(logits[0] != np.asarray(model.params["head"]["bias"])[None, :]).any(axis=1)]
    assert 16 < len(kept) < 48 and len(np.unique(kept.round(4), axis=0)) > 8
    np.testing.assert_allclose(model.apply(model.params, X), Plain().apply(plain, X), rtol=1e-5)


def test_a_network_that_computes_in_bfloat16(plain, digits):
    model = from_flax(Plain(LOW), plain, "head", SIZE)
    exact = from_flax(Plain(), plain, "head", SIZE)
    logits = model.apply(model.params, X)
    assert logits.dtype == jnp.float32 and model.features(model.params, X).dtype == jnp.float32
    np.testing.assert_allclose(logits, exact.apply(model.params, X), rtol=0, atol=0.02 * float(abs(logits).max()))
    probe, same = (each.with_head(10, init="probe", task=digits) for each in (model, exact))
    curve, expected = (
        linft.finetune(each, digits)(linft.Recipe(steps=3, batch_size=12, learning_rate=0.05)).train_loss
        for each in (probe, same)
    )
    np.testing.assert_allclose(curve, expected, rtol=0.02)


def test_logits_rounded_at_the_end_are_still_those_of_the_head(plain):
    model = from_flax(Rounded(), plain, "head", SIZE)
    np.testing.assert_allclose(
        model.apply(model.params, X).astype(float), Plain().apply(plain, X), rtol=0.01, atol=0.01
    )


class Wide(nn.Module):
    """Its head computes in bfloat16, and something comes after it."""

    @nn.compact
    def __call__(self, x):
        return 1.1 * nn.Dense(3, name="head", dtype=LOW)(nn.relu(nn.Conv(8, (3, 3), name="conv")(x)).mean((1, 2)))


class Rounded(nn.Module):
    """It gives logits in less precision than it computes them in."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3), name="conv")(x)).mean((1, 2))
        return nn.Dense(3, name="head")(x).astype(LOW)


class Failing(nn.Module):
    @nn.compact
    def __call__(self, x):
        raise KeyError("stem")


class Renamed(nn.Module):
    """A mode that no list has."""

    @nn.compact
    def __call__(self, x, learning=True):
        return nn.Dense(3, name="head")(
            nn.Dropout(0.5, deterministic=not learning)(nn.Conv(8, (3, 3), name="conv")(x).mean((1, 2)))
        )


class Counting(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        count = self.variable("ema", "steps", lambda: jnp.zeros(()))
        if train:
            count.value += 1
        return Plain()(x)


UNTOLD = "say by evaluation={…} and training={…} what it is told in each mode"
BAD = {
    "mode that is needed": (Counted(), {}, "the call of Counted needs phase beside the images; pass evaluation={"),
    "mode by another name": (Worded(), {}, "Worded() is not in evaluation mode ("),
    "randomness in evaluation": (Renamed(), {"variables": "plain"}, "Renamed() is not in evaluation mode ("),
    "no such setting": (Network(), {"training": {"mood": 1}}, "Network takes no mood, in its call or as an attribute"),
    "another's variables": (Needed(), {"variables": "plain"}, "the variables are not those of Needed: "),
    "statistics left out": (Network(), {"variables": "params"}, "the variables are not those of Network: "),
    "class": (Network, {}, "Network is a class; pass an instance of it, Network(…)"),
    "train state": (Network(), {"variables": "state"}, 'variables is a TrainState; pass {"params": …}'),
    "something after a head in low precision": (
        Wide(),
        {"variables": "plain"},
        "the module's logits are not head(feat",
    ),
    "code that fails": (Failing(), {}, "Failing() fails on images of shape (2, 8, 8, 3): KeyError: 'stem'"),
    "NNX": (nnx.Linear(3, 3, rngs=nnx.Rngs(0)), {}, "Linear is an NNX module and from_flax takes those of Linen; make"),
    "no module": (np.sin, {}, "ufunc is not a module of flax.linen, which from_flax takes"),
}


@pytest.fixture(scope="module")
def unchecked():
    """from_flax as users have it: under pytest the type checker refuses what is no module."""
    spec = importlib.util.spec_from_file_location(
        "unchecked", importlib.util.find_spec(modes.__name__[:-5] + "from_flax").origin
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.from_flax


@pytest.mark.parametrize("kind", BAD)
def test_one_line_says_what_is_needed(kind, unchecked, variables, plain):
    module, said, message = BAD[kind]
    import optax

    given = {
        None: variables,
        "plain": plain,
        "params": variables["params"],
        "state": TrainState.create(apply_fn=None, params=plain["params"], tx=optax.identity()),
    }
    settings = {name: value for name, value in said.items() if name != "variables"}
    with pytest.raises(LinftError) as error:
        unchecked(module, given[said.get("variables")], "head", SIZE, **settings)
    assert str(error.value).startswith(message) and len(str(error.value).splitlines()) == 1
    assert "mode (" not in message or str(error.value).endswith(UNTOLD)


def test_a_collection_that_only_training_changes_is_named(plain):
    given = {"params": {"Plain_0": plain["params"]}, "ema": {"steps": jnp.zeros(())}}
    model = from_flax(Counting(), given, "Plain_0/head", SIZE)
    with pytest.raises(LinftError, match=r"changes a collection other than batch_stats, which is not kept: .*ema"):
        model.forward_train(model.params, {}, X, KEY)
    with pytest.raises(LinftError, match="has no training mode, which batch statistics come from"):
        linft.models.batch_norm.reestimated(from_flax(Plain(), plain, "head", SIZE), np.zeros((2, *SIZE), np.uint8))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.conv, self.head = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.Linear(8, 3, rngs=rngs)

    def features(self, x):
        return nnx.relu(self.conv(x)).mean((1, 2))

    def __call__(self, x):
        return self.head(self.features(x))


def test_the_way_named_for_nnx_modules_is_one(digits):
    network = Nnx(nnx.Rngs(0))
    graph, state = nnx.split(network)
    params = nnx.to_pure_dict(state)

    def forward(params, batch_stats, x):
        filled = jax.tree.map(lambda leaf: leaf, state)
        nnx.replace_by_pure_dict(filled, {**params, "head": nnx.to_pure_dict(state)["head"]})
        features = nnx.merge(graph, filled).features(x)
        return linft.core.base.dense(params["head"], features), features

    groups = {"conv": ("conv",), "head": ("head",)}
    model = linft.Model("nnx", params, {}, forward, None, "head", groups, linft.core.preprocessing.Preprocessing(SIZE))
    np.testing.assert_allclose(model.apply(model.params, X), network(X), rtol=1e-5)
    recipe = linft.Recipe(steps=2, batch_size=12)
    ten = model.with_head(10, KEY)
    assert linft.finetune(ten, digits)(recipe).train_loss.shape == (3,)
    assert predict.dual(ten, digits)(recipe).train_loss.shape == (3,)
