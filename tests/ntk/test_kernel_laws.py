"""The kernel of every kind of layer, by both engines, held against explicit Jacobians."""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import drawn
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linft
from linft.core import trees
from linft.core.base import Kernel, Model
from linft.core.preprocessing import Preprocessing
from linft.ntk.empirical import empirical_ntk, train_test_ntk

CLASSES, SIZE = 3, (8, 8, 3)
TRAIN, TEST = slice(0, 6), slice(6, 9)  # in batches of 3 all have one shape; uneven ones have a law of their own
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}  # of a block's Frobenius norm


class Layers(nn.Module):
    """The layers that have rules, in their variants."""

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm(name="layer_norm")(nn.Conv(6, (3, 3), name="same")(x))
        x = nn.Conv(6, (3, 3), strides=2, padding="VALID", feature_group_count=3, name="grouped")(nn.gelu(x))
        x = nn.GroupNorm(num_groups=2, name="group_norm")(x)
        x = nn.Conv(6, (3, 2), padding=((3, 1), (1, 2)), kernel_dilation=(2, 1), use_bias=False, name="dilated")(x)
        x = nn.Conv(12, (3, 3), strides=(1, 2), feature_group_count=6, padding=1, name="depthwise")(nn.tanh(x))
        x = nn.avg_pool(x, (2, 2))
        shared = nn.Conv(12, (2, 2), padding="SAME", name="shared")
        x = shared(nn.tanh(shared(x)))
        x = nn.Dense(5, use_bias=False, name="per_pixel")(nn.RMSNorm(name="rms_norm")(x))
        x = nn.LayerNorm(use_bias=False, name="scale_only")(nn.tanh(x).mean((1, 2)))
        return nn.Dense(CLASSES, name="linear")(x)


MASK = np.tril(np.ones((3, 3), np.int32))[..., None, None] * np.ones((3, 3, 3, 3), np.int32)


class Others(nn.Module):
    """Layers, or variants of them, that only the generic rule covers."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), padding="CIRCULAR", strides=2, name="circular")(x)
        x = nn.PReLU(name="prelu")(x)
        x = nn.ConvTranspose(4, (2, 2), strides=(2, 2), name="transposed")(x)
        x = nn.Conv(3, (3, 3), padding=0, input_dilation=(2, 2), name="spread")(nn.tanh(x))
        x = nn.InstanceNorm(name="instance_norm")(x)
        x = nn.Conv(3, (3, 3), strides=4, mask=MASK, name="masked")(x)
        x = nn.DenseGeneral(4, axis=(1, 2), name="over_pixels")(nn.tanh(x))
        return nn.Dense(CLASSES, name="linear")(x.mean(1))


class Sequence(nn.Module):
    """A convolution over one axis and a perceptron of flattened pixels, with biases here and there."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(2, 5, strides=4, name="line")(x.reshape(len(x), -1, x.shape[-1]))
        x = nn.tanh(nn.Dense(6, name="wide")(nn.tanh(x).reshape(len(x), -1)))
        x = nn.tanh(nn.Dense(5, use_bias=False, name="deep")(x))
        return nn.Dense(CLASSES, use_bias=False, name="linear")(x)


def resnet(shortcut: str) -> Model:
    size = Preprocessing(SIZE)
    return linft.models.create("cifar_resnet8", CLASSES, jax.random.key(0), size, width=4, shortcut=shortcut)


def user(module: nn.Module) -> Model:
    return linft.from_flax(module, drawn.variables(module, SIZE), "linear", SIZE)


MODELS: dict[str, Callable[[], Model]] = {
    "resnet, padded shortcut": lambda: resnet("a"),
    "resnet, convolved shortcut": lambda: resnet("b"),
    "layers with rules": lambda: user(Layers()),
    "other layers": lambda: user(Others()),
    "sequence": lambda: user(Sequence()),
}


class Case(NamedTuple):
    """A model with nothing left at its initial value, images, and the Jacobian of every parameter."""

    model: Model
    images: np.ndarray
    jacobians: dict[str, np.ndarray]
    """By path, [n c size], in float64."""

    def cast(self, dtype: str) -> tuple[Model, jax.Array, jax.Array]:
        """Model, training and test images at a precision."""
        params, stats, images = jax.tree.map(
            lambda v: jnp.asarray(v, dtype), (self.model.params, self.model.batch_stats, self.images)
        )
        return self.model.replace(params=params, batch_stats=stats), images[TRAIN], images[TEST]

    def group(self, prefixes: tuple[str, ...]) -> np.ndarray:
        """J_g: [n c size]."""
        paths = [path for path in self.jacobians if any(path.startswith(p + "/") for p in prefixes)]
        return np.concatenate([self.jacobians[path] for path in paths], axis=-1)


def randomised(tree: trees.Tree) -> trees.Tree:
    """Every leaf moved at random, norm statistics included; variances stay above 0."""
    rng = np.random.default_rng(1)

    def move(path, leaf):
        moved = leaf + rng.normal(0, 0.3, leaf.shape).astype(np.float32)
        return np.abs(moved) + 0.1 if trees.path_of(path).endswith("/var") else np.asarray(moved)

    return jax.tree_util.tree_map_with_path(move, tree)


APART = ("resnet, convolved shortcut",)  # takes longest to compile; bottlenecks have its layers (test_architectures.py)


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.slow) if n in APART else n for n in MODELS], scope="module")
def case(request) -> Case:
    return make_case(request.param)


@pytest.fixture(autouse=True)
def checked(request, monkeypatch):
    """The engine's self-check is held where every layer is; elsewhere its backward passes only take long to compile."""
    if "case" not in request.fixturenames:
        monkeypatch.setattr("linft.ntk.engine.check", lambda *_, **__: None)


@pytest.fixture(params=["sequence", pytest.param("resnet, convolved shortcut", marks=pytest.mark.slow)], scope="module")
def brief(request) -> Case:
    """A network of every shape that matters to laws that do not depend on the layers."""
    return make_case(request.param)


@pytest.fixture(scope="module")
def small() -> Case:
    """The case that compiles soonest, for laws that do not depend on the layers."""
    return make_case("sequence")


@functools.cache  # so that laws of one network share its programs
def make_case(name: str) -> Case:
    model = MODELS[name]()
    model = model.replace(params=randomised(model.params), batch_stats=randomised(model.batch_stats))
    images = np.random.default_rng(2).normal(size=(9, *SIZE)).astype(np.float32)
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    whole = Case(model, images, {})
    exact = whole.cast("float64")[0]
    jacobian = jax.jit(jax.jacobian(lambda params: exact.apply(params, jnp.asarray(images, "float64"))))(exact.params)
    jax.config.update("jax_enable_x64", before)
    leaves = jax.tree_util.tree_leaves_with_path(jacobian)
    return whole._replace(jacobians={trees.path_of(p): np.reshape(v, (9, CLASSES, -1)) for p, v in leaves})


def contract(outputs: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The block of two Jacobians [n c size]."""
    full = np.einsum("ncp,mdp->ncmd", a, b)
    return full if outputs == "full" else np.einsum("ncmc->nm", full)


def assert_close(got: jax.Array, expected: np.ndarray, dtype: str) -> None:
    assert got.dtype == dtype
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE[dtype] * np.linalg.norm(expected))


def assert_explicit(case: Case, dtype: str, outputs: str) -> None:
    model, x, y = case.cast(dtype)
    train, test = train_test_ntk(model, x, y, outputs=outputs, engine="layerwise", batch_size=3)
    assert list(train.blocks) == list(test.blocks) == list(model.stages)
    for name, prefixes in model.stages.items():
        j = case.group(prefixes)
        assert_close(train.blocks[name], contract(outputs, j[TRAIN], j[TRAIN]), dtype)
        assert_close(test.blocks[name], contract(outputs, j[TEST], j[TRAIN]), dtype)


def test_layerwise_is_the_explicit_kernel(x64, case):
    assert_explicit(case, "float64", "full")


def test_traces_are_the_explicit_kernels(x64, brief):
    assert_explicit(brief, "float64", "trace")


def test_so_it_is_in_float32(brief):
    assert_explicit(brief, "float32", "full")


@pytest.mark.slow
@pytest.mark.parametrize("outputs", ["full", "trace"])
def test_every_layer_in_float32(case, outputs):
    assert_explicit(case, "float32", outputs)


def test_pseudo_is_the_explicit_kernel_of_signed_sums(brief):
    """Whatever the signs, they are among the 2^C, and the same for every group, batch and part."""
    model, x, y = brief.cast("float32")
    train, test = train_test_ntk(model, x, y, outputs="pseudo", engine="layerwise", batch_size=3, draws=3, seed=5)
    signs = [np.array((1.0, *rest)) / np.sqrt(CLASSES) for rest in itertools.product((1, -1), repeat=CLASSES - 1)]

    def expected(draws, prefixes, rows):
        summed = [np.einsum("c,ncp->np", s, brief.group(prefixes)) for s in draws]
        return np.mean([j[rows] @ j[TRAIN].T for j in summed], axis=0)

    everything = tuple(p for prefixes in model.stages.values() for p in prefixes)
    candidates = list(itertools.combinations_with_replacement(signs, 3))
    drawn = min(candidates, key=lambda c: np.linalg.norm(expected(c, everything, TRAIN) - train.total()))
    for name, prefixes in model.stages.items():
        assert_close(train.blocks[name], expected(drawn, prefixes, TRAIN), "float32")
        assert_close(test.blocks[name], expected(drawn, prefixes, TEST), "float32")


def test_neural_tangents_is_the_explicit_kernel(x64, brief):
    """Below the head as one group, since the package differentiates the whole network for each."""
    model, x, y = brief.cast("float64")
    below = tuple(p for name, prefixes in model.stages.items() if name != model.head for p in prefixes)
    groups = {"below": below, "head": (model.head,)}
    same = x[:3]  # as many as in y: one shape to compile
    symmetric = empirical_ntk(model, same, engine="neural-tangents", groups=groups)
    rectangular = empirical_ntk(model, y, same, engine="neural-tangents", groups=groups)
    for name, prefixes in groups.items():
        j = brief.group(prefixes)
        assert_close(symmetric.blocks[name], contract("full", j[:3], j[:3]), "float64")
        assert_close(rectangular.blocks[name], contract("full", j[TEST], j[:3]), "float64")


@pytest.mark.parametrize(
    ("outputs", "dtype"), [("full", "float32"), ("trace", "float32"), ("trace", "float64"), ("pseudo", "float64")]
)
def test_the_engines_agree(request, small, outputs, dtype):
    if dtype == "float64":
        request.getfixturevalue("x64")
    model, x, y = small.cast(dtype)
    kernels = [
        train_test_ntk(model, x[:3], y, outputs=outputs, engine=engine, groups=["wide", "linear"], draws=2)
        for engine in ("layerwise", "neural-tangents")
    ]
    for ours, theirs in zip(*kernels, strict=True):
        assert (ours.engine, theirs.engine) == ("layerwise", "neural-tangents")
        for name in ("wide", "linear"):
            assert_close(ours.blocks[name], np.asarray(theirs.blocks[name]), dtype)


def square(kernel: Kernel) -> np.ndarray:
    total = np.asarray(kernel.total())
    return total.reshape(total.shape[0] * (total.shape[1] if total.ndim == 4 else 1), -1)


def test_symmetric_and_positive(x64, brief):
    model, x, _ = brief.cast("float64")
    for outputs in ("full", "trace"):
        matrix = square(empirical_ntk(model, x, outputs=outputs, batch_size=3))
        np.testing.assert_array_equal(matrix, matrix.T)
        values = np.linalg.eigvalsh(matrix)
        assert values[0] > -1e-12 * values[-1] and values[-1] > 0


def test_the_kernel_of_the_head_is_that_of_its_features(x64, brief):
    model, x, y = brief.cast("float64")
    kernel = empirical_ntk(model, y, x, groups=[model.head], batch_size=3)
    bias = 1 if "bias" in model.params[model.head] else 0
    features = jax.jit(lambda images: model.features(model.params, images))
    inner = np.asarray(features(y) @ features(x).T) + bias
    assert_close(kernel.total(), np.einsum("nm,cd->ncmd", inner, np.eye(CLASSES)), "float64")


def test_partitions_add_up(x64, brief):
    """Layer groups to the whole; kernels and vectors to their layer group."""
    model, x, _ = brief.cast("float64")
    layers = empirical_ntk(model, x, batch_size=3)
    whole = empirical_ntk(model, x, groups={"all": tuple(model.params)}, batch_size=3)
    assert_close(layers.total(), np.asarray(whole.blocks["all"]), "float64")
    split = empirical_ntk(model, x, groups=trees.split_vectors(model.stages), batch_size=3)
    for name, block in layers.blocks.items():
        parts = [split.blocks[part] for part in (name, name + trees.VECTORS) if part in split.blocks]
        assert_close(sum(parts), np.asarray(block), "float64")


@pytest.mark.parametrize("outputs", ["full", "trace", "pseudo"])
def test_batches_change_nothing(x64, small, outputs):
    """One by one, with a padded last batch, or all at once."""
    model, x, y = small.cast("float64")
    whole = train_test_ntk(model, x[:5], y, outputs=outputs, batch_size=100)
    for size in (1, 2):
        for expected, got in zip(whole, train_test_ntk(model, x[:5], y, outputs=outputs, batch_size=size), strict=True):
            assert_close(got.total(), np.asarray(expected.total()), "float64")


def test_train_and_test_at_once_is_each_by_itself(x64, small):
    model, x, y = small.cast("float64")
    at_once = train_test_ntk(model, x, y, batch_size=2)
    for got, apart in zip(at_once, (empirical_ntk(model, x), empirical_ntk(model, y, x)), strict=True):
        assert_close(got.total(), np.asarray(apart.total()), "float64")


def test_groups_restrict(x64, small):
    model, x, _ = small.cast("float64")
    everything = empirical_ntk(model, x)
    some = empirical_ntk(model, x, groups=["linear", "line"])
    assert list(some.blocks) == ["linear", "line"]
    for name, block in some.blocks.items():
        assert_close(block, np.asarray(everything.blocks[name]), "float64")


def test_weights_of_groups(small):
    model, x, _ = small.cast("float32")
    kernel = empirical_ntk(model, x)
    weights = {"line": 0.5, "wide": 0.0, "deep": 2.0, "linear": 1.0}
    expected = sum(weights[name] * np.asarray(block) for name, block in kernel.blocks.items())
    assert_close(kernel.total(weights), expected, "float32")


def test_pseudo_is_unbiased_for_the_trace_over_classes(x64, small):
    """With signs ε the noise of one draw is (1/C) Σ_{c<d} ε_c ε_d (Θ_cd + Θ_dc), of known variance."""
    model, x, _ = small.cast("float64")
    full, draws = np.asarray(empirical_ntk(model, x).total()), 512
    pairs = full.transpose(0, 2, 1, 3)[..., *np.triu_indices(CLASSES, 1)]
    mirrored = full.transpose(0, 2, 3, 1)[..., *np.triu_indices(CLASSES, 1)]
    error = np.sqrt(((pairs + mirrored) ** 2).sum(-1) / draws) / CLASSES
    mean = empirical_ntk(model, x, outputs="pseudo", draws=draws).total()
    z = (mean - np.einsum("ncmc->nm", full) / CLASSES) / error
    assert 0.1 < np.abs(z).max() < 5
