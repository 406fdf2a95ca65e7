"""Per-example Jacobians by primitives are those of automatic differentiation, whatever the network is written in."""

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import drawn
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from narrow import NARROW

import linft
from linft.core import parallel, trees
from linft.core.base import Kernel, Model
from linft.core.errors import LinftError
from linft.core.preprocessing import Preprocessing
from linft.models.architectures.layers import StandardizedConv
from linft.models.from_flax import wrap
from linft.ntk.empirical import empirical_ntk
from linft.ntk.layerwise import explicit, jacobians
from linft.ntk.layerwise.plan import plan
from linft.ntk.primitives import derivatives
from linft.ntk.primitives.derivatives import Derivatives
from linft.ntk.primitives.interpreter import inside
from linft.ntk.primitives.network import TracedNetwork, network

CLASSES, SIZE, EXAMPLES = 3, (8, 8, 3), 2


class ConvNet(nn.Module):
    """Convolutions in their variants, with batch norm, and one that is called twice."""

    train: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 3), name="plain")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not self.train, name="norm")(x))
        x = nn.Conv(6, (3, 2), strides=2, kernel_dilation=(2, 1), padding=((3, 1), (1, 2)), name="dilated")(x)
        twice = nn.Conv(6, (3, 3), feature_group_count=3, use_bias=False, name="grouped")
        x = twice(nn.tanh(twice(x)))
        x = nn.max_pool(nn.tanh(nn.ConvTranspose(4, (2, 2), strides=(2, 2), name="transposed")(x)), (2, 2))
        x = nn.Conv(5, (3, 3), padding="CIRCULAR", name="circular")(x)
        x = nn.Conv(5, (3, 3), input_dilation=(2, 2), padding=((-1, 2), (0, 0)), name="spread")(x)
        return nn.Dense(CLASSES, name="head")(nn.tanh(x).mean((1, 2)))


class Reweighted(nn.Module):
    """Kernels that are functions of the weights."""

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(StandardizedConv(6, (3, 3), name="standardized")(x))
        x = nn.tanh(nn.WeightNorm(nn.Conv(4, (3, 3), name="inner"), name="normed")(x))
        a, b = (self.param(name, nn.initializers.normal(), shape) for name, shape in (("A", (4, 2)), ("B", (2, 5))))
        return nn.Dense(CLASSES, name="head")(nn.tanh(jnp.einsum("nhwi,io->nhwo", x, a @ b)).mean((1, 2)))


class ConvNeXt(nn.Module):
    """A block of it, and one of squeeze and excitation."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (2, 2), strides=2, name="stem")(x)
        y = nn.LayerNorm(name="norm")(nn.Conv(4, (3, 3), feature_group_count=4, name="depthwise")(x))
        y = nn.Dense(4, name="narrow")(nn.gelu(nn.Dense(8, name="wide")(y)))
        x = x + self.param("gamma", nn.initializers.normal(), (4,)).reshape(1, 1, 1, 4) * y
        gate = nn.Dense(4, name="excite")(nn.relu(nn.Dense(2, name="squeeze")(x.mean((1, 2)))))
        x = x * nn.sigmoid(gate)[:, None, None]
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


class ViT(nn.Module):
    """With a class and a register token, positions that are interpolated, and the tokens of all images on one axis."""

    @nn.compact
    def __call__(self, x):
        n = len(x)
        x = nn.Conv(6, (4, 4), strides=4, name="patch")(x).reshape(n, -1, 6)
        positions = self.param("positions", nn.initializers.normal(), (1, 9, 6))
        x = x + jax.image.resize(positions.reshape(1, 3, 3, 6), (1, 2, 2, 6), "bilinear").reshape(1, 4, 6)
        tokens = self.param("tokens", nn.initializers.normal(), (1, 2, 6))
        x = jnp.concatenate([jnp.broadcast_to(tokens, (n, 2, 6)), x], 1)
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(nn.LayerNorm(name="norm1")(x))
        q, k, v = jnp.moveaxis(nn.Dense(18, name="qkv")(x).reshape(n, -1, 3, 2, 3), 2, 0)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k)), v)
        x = x + nn.DenseGeneral(6, axis=(2, 3), name="out")(mixed)
        y = nn.LayerNorm(name="norm2")(x).reshape(-1, 6)
        x = x + nn.Dense(6, name="narrow")(nn.gelu(nn.Dense(8, name="wide")(y))).reshape(x.shape)
        return nn.Dense(CLASSES, name="head")(x[:, 0])


class Mixer(nn.Module):
    """Words that images choose, mixed along either axis; features in half precision where that is said."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        words = nn.Embed(4, 5, name="embed")(jnp.argmax(x, -1).reshape(len(x), -1)[:, ::4])
        x = words + nn.Dense(5, dtype=self.dtype, name="pixels")(x.reshape(len(x), 16, -1))
        mixed = nn.Dense(16, dtype=self.dtype, name="tokens")(jnp.swapaxes(x, 1, 2))
        x = x + jnp.swapaxes(nn.gelu(mixed), 1, 2)
        x = nn.RMSNorm(dtype=self.dtype, name="norm")(x)
        return nn.Dense(CLASSES, name="head")(x.mean(1))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.tanh(nn.Conv(x.shape[-1], (3, 3), name="conv")(x)), None


class Wrapped(nn.Module):
    """What is rematerialized, and stacked blocks of which a scan runs one after another."""

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.remat(nn.Conv)(4, (3, 3), strides=2, name="remat")(x))
        stacked = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(CLASSES, name="head")(stacked(name="blocks")(x, None)[0].mean((1, 2)))


def of_linen(module: nn.Module) -> Model:
    variables = drawn.variables(module, SIZE)
    groups = {name: (name,) for name in variables["params"]}
    return wrap(module, variables, "head", groups, Preprocessing(SIZE), name=type(module).__name__)


def of_function(body: Callable, **shapes: tuple[int, ...]) -> Model:
    """A model whose features are a function of its parameters and images."""
    rng = np.random.default_rng(0)
    params: dict[str, Any] = {
        name: jnp.asarray(rng.normal(size=shape) / math.sqrt(shape[0])) for name, shape in shapes.items()
    }
    params["head"] = {"kernel": jnp.asarray(rng.normal(size=(4, CLASSES))), "bias": jnp.zeros(CLASSES)}

    def forward(params, batch_stats, x):
        features = body(params, x)
        return features @ params["head"]["kernel"] + params["head"]["bias"][None], features

    groups = {name: (name,) for name in params}
    return Model("function", params, {}, forward, None, "head", groups, Preprocessing(SIZE))


def channels_first(p, x):
    """A convolution in the layout of other frameworks, inside a function that is compiled for itself."""

    @jax.jit
    def convolved(x):
        return jax.lax.conv_general_dilated(x, p["w"], (1, 2), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))

    x = jnp.tanh(convolved(jnp.moveaxis(x, -1, 1)) + p["b"][None, :, None, None])
    return x.mean((2, 3)) @ p["dense"].T


def tied(p, x):
    """The head's kernel below the features too, and a matrix and its transpose."""
    x = jnp.tanh(x.mean((1, 2)) @ p["w"])
    x = jnp.tanh(x @ p["head"]["kernel"] @ p["w"])
    return jnp.tanh(x @ p["w"].T @ p["w"])


def branched(p, x):
    """By the image, one convolution or the other; and a derivative that is the user's own."""

    @jax.custom_vjp
    def rounded(w):
        return jnp.round(4 * w) / 4

    rounded.defvjp(lambda w: (rounded(w), None), lambda _, g: (2 * g,))

    def of_one(x):
        kernels = p["w"], rounded(p["w"])
        branches = [functools.partial(jax.lax.conv, rhs=w, window_strides=(2, 2), padding="SAME") for w in kernels]
        return jax.lax.cond(x.mean() > 0, *branches, jnp.moveaxis(x, -1, 0)[None])[0]

    return jnp.tanh(jax.vmap(of_one)(x)).mean((2, 3))


def of_nnx() -> Model:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
            self.head = nnx.Linear(4, CLASSES, rngs=rngs)

        def __call__(self, x):
            features = nnx.relu(self.norm(self.conv(x))).mean((1, 2))
            return self.head(features), features

    graph, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)

    def forward(params, batch_stats, x):
        return nnx.merge(graph, params, batch_stats)(x)

    plain, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
    return Model("nnx", plain, stats, forward, None, "head", {n: (n,) for n in plain}, Preprocessing(SIZE))


NETWORKS: dict[str, Callable[[], Model]] = {
    "convolutions": lambda: of_linen(ConvNet()),
    "functions of weights": lambda: of_linen(Reweighted()),
    "ConvNeXt": lambda: of_linen(ConvNeXt()),
    "ViT": lambda: of_linen(ViT()),
    "mixer": lambda: of_linen(Mixer()),
    "remat and scan": lambda: of_linen(Wrapped()),
    "NNX": of_nnx,
    "channels first": lambda: of_function(channels_first, w=(5, 3, 3, 3), b=(5,), dense=(4, 5)),
    "tied to the head": lambda: of_function(tied, w=(3, 4)),
    "branches": lambda: of_function(branched, w=(4, 3, 3, 3)),
    "adapters": lambda: linft.lora(of_linen(ConvNeXt()), rank=2, key=jax.random.key(0)),
    "linearized": lambda: linft.linearize(drawn_moved(of_linen(ConvNeXt()))),
}


def drawn_moved(model: Model) -> Model:
    """In float64, nothing left at its initial value."""
    rng = np.random.default_rng(1)

    def moved(path, leaf):
        value = leaf + 0.2 * rng.normal(size=leaf.shape)
        return jnp.asarray(abs(value) + 0.1 if trees.path_of(path).endswith("/var") else value, "float64")

    params, stats = jax.tree_util.tree_map_with_path(moved, (model.params, model.batch_stats))
    return model.replace(params=params, batch_stats=stats)


def pictures(dtype: str = "float64", n: int = EXAMPLES) -> jax.Array:
    return jnp.asarray(np.random.default_rng(2).normal(size=(n, *SIZE)), dtype)


def paths_of(model: Model) -> dict[str, str]:
    return {trees.path_of(path): trees.path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(model.params)}


def by_primitives(model: Model, x: jax.Array, found: TracedNetwork) -> dict[str, np.ndarray]:
    """[b c size] of every parameter."""
    wanted = Derivatives(tuple(paths_of(model).items()), found.head)
    directions = jnp.eye(model.num_classes, dtype=model.dtype)
    rows, _ = derivatives.program(model.forward, wanted)(model.params, model.batch_stats, x, directions, np.zeros(0))
    return {path: np.asarray(j) for path, j in explicit._apart(rows, tuple(paths_of(model)), model.num_classes).items()}


def by_autodiff(model: Model, x: jax.Array, network: TracedNetwork) -> dict[str, np.ndarray]:
    found = jax.jit(jax.jacrev(lambda params: model.apply(params, x)))(model.params)
    closed = {f"{model.head}/kernel"} & network.head

    def flat(path: str, j: jax.Array) -> np.ndarray:
        return np.asarray(j.swapaxes(2, 3).reshape(*j.shape[:2], -1) if path in closed else derivatives.laid_out(j, 2))

    return {trees.path_of(p): flat(trees.path_of(p), j) for p, j in jax.tree_util.tree_leaves_with_path(found)}


@pytest.mark.parametrize("name", NETWORKS)
def test_they_are_those_of_automatic_differentiation(x64, name):
    model, x = NETWORKS[name](), pictures()
    model = model if name == "linearized" else drawn_moved(model)
    found = network(model, x, "asked")
    got, expected = by_primitives(model, x, found), by_autodiff(model, x, found)
    whole = np.sqrt(sum(np.sum(j**2) for j in expected.values()))
    assert got.keys() == expected.keys()
    for path, j in expected.items():
        near = 1e-10 * np.linalg.norm(j) + 1e-14 * whole  # attention does not feel a bias of its keys
        np.testing.assert_allclose(got[path], j, rtol=0, atol=near, err_msg=path)


def test_in_half_precision_to_its_rounding():
    model, x = of_linen(Mixer(jnp.bfloat16)), pictures("float32")
    found = network(model, x, "asked")
    got, expected = by_primitives(model, x, found), by_autodiff(model, x, found)
    for path, j in expected.items():
        np.testing.assert_allclose(got[path], j, rtol=0, atol=2e-2 * np.linalg.norm(j), err_msg=path)


REGISTERED = [
    "cifar resnet, option b",
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("mobilenet v1", "cifar densenet")),
]


@pytest.mark.parametrize("kind", REGISTERED)
def test_they_are_those_layer_by_layer(x64, kind):
    model = drawn_moved(NARROW[kind].create(2))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *model.preprocessing.input_size)))
    labels = {path: path for path in paths_of(model) if not path.startswith("head/")}
    layered = jacobians.rows(model, plan(model, x), labels, jnp.eye(2), "full")(x)
    dense = {path: np.asarray(j) for path, j in explicit._apart(layered, tuple(labels), 2).items()}
    for path, j in by_primitives(model, x, network(model, x, "asked")).items():
        if path in dense:
            kernels = [np.einsum("nkp,mlp->nkml", each, each) for each in (j, dense[path])]
            np.testing.assert_allclose(*kernels, rtol=0, atol=1e-9 * np.linalg.norm(kernels[1]), err_msg=path)


def equations(program: Any) -> list[Any]:
    own = list(getattr(program, "jaxpr", program).eqns)
    return own + [each for e in own for inner in inside(e) for each in equations(inner)]


@pytest.mark.parametrize("name", ["convolutions", "functions of weights", "remat and scan", "channels first"])
def test_no_convolution_has_a_group_for_each_example(name):
    """As JAX's own derivative has, which takes many times as long."""
    model, n = NETWORKS[name](), 7
    wanted = Derivatives(tuple(paths_of(model).items()), frozenset())
    of_rows = derivatives.program(model.forward, wanted)
    program = jax.make_jaxpr(of_rows)(model.params, model.batch_stats, pictures("float32", n), jnp.eye(3), np.zeros(0))
    found = [e.params for e in equations(program) if e.primitive.name == "conv_general_dilated"]
    assert found and not [p for p in found if p["feature_group_count"] % n == 0 or p["batch_group_count"] % n == 0]


def test_parameters_come_in_the_order_of_the_network_the_head_last():
    model = of_linen(Wrapped())
    found = network(model, pictures("float32"), "asked")
    units = found.units(dict.fromkeys(paths_of(model), "all"))
    assert [sorted(unit) for unit in units] == [
        ["remat/bias", "remat/kernel"],
        ["blocks/conv/bias", "blocks/conv/kernel"],
        ["head/bias", "head/kernel"],
    ]
    outputs = 4 * 4 * 4
    assert found.numbers == 2 * (outputs + 3 * outputs + CLASSES)


@pytest.fixture(scope="module")
def whole() -> tuple[Model, jax.Array, Kernel]:
    model, x = of_linen(Wrapped()), pictures("float32", 5)
    return model, x, empirical_ntk(model, x)


def assert_same(got: Kernel, expected: Kernel) -> None:
    for group, block in expected.blocks.items():
        np.testing.assert_allclose(got.blocks[group], block, rtol=0, atol=2e-6 * np.linalg.norm(block))


def test_traces_sketches_and_signs_are_of_the_same_kernel(whole):
    model, x, kernel = whole
    traces = Kernel(kernel.traces(), "trace")
    assert_same(empirical_ntk(model, x, outputs="trace"), traces)
    assert_same(linft.ntk.projected_ntk(model, x, dimensions=1000).kernel, traces)
    few = linft.ntk.projected_ntk(model, x, dimensions=256, groups=["blocks"])
    error = np.asarray(few.kernel.blocks["blocks"] - traces.blocks["blocks"]) / np.asarray(few.standard_error["blocks"])
    assert 0.1 < np.sqrt(np.mean(error**2)) < 3


def test_passes_and_a_mesh_change_nothing(monkeypatch, whole, caplog):
    model, x, kernel = whole
    assert_same(empirical_ntk(model, x, mesh=parallel.mesh(1)), kernel)
    monkeypatch.setattr("linft.ntk.tiled.schedule.batch_bytes", lambda *_: 0)
    monkeypatch.setattr("linft.ntk.tiled.memory.budget", lambda limit: 40_000 if limit else 2**40)
    with caplog.at_level("INFO", "linft"):
        streamed = empirical_ntk(model, x, memory=1, batch_size=2)
    assert re.search("in [23] passes over the layers", caplog.text)
    assert_same(streamed, kernel)


MIXED = "the outputs of ConvNet for an image depend on the other images of its batch, as with batch norm in training"


def test_a_network_that_mixes_its_images_is_refused():
    variables = drawn.variables(ConvNet(), SIZE)

    def forward(params, batch_stats, x):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, _ = ConvNet(train=True).apply(variables, x, mutable=["batch_stats"])
        return logits, jnp.zeros((len(x), 5))

    model = of_linen(ConvNet()).replace(forward=forward, params=variables["params"])
    x = pictures("float32")
    plan = network(model, x, "asked")
    with pytest.raises(LinftError, match=MIXED):
        jacobians.rows(model, plan, {"plain/bias": "all"}, jnp.eye(CLASSES), "full")(x)


def test_a_network_that_needs_a_batch_or_has_other_features_is_refused():
    model = of_function(lambda p, x: (x.mean((1, 2)) @ p["w"]).squeeze(), w=(3, 4))
    with pytest.raises(LinftError, match="function cannot be called with one image: ValueError"):
        network(model, pictures("float32"), "asked")
    half = model.replace(forward=lambda params, batch_stats, x: (x.mean((1, 2)), x.mean((1, 2))))
    told = r"function gives, of one image, outputs \(\(1, 3\), \(1, 3\)\), not logits \(1, 3\) and features \(1, 4\)"
    with pytest.raises(LinftError, match=told):
        network(half, pictures("float32"), "asked")
