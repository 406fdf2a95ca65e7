"""The kernel of adapters of low rank is the product of their Jacobians, of every kind of layer."""

import drawn
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linft
from linft.core import trees
from linft.models.architectures.layers import StandardizedConv
from linft.models.training_mode import in_training_mode
from linft.ntk import train_test_ntk
from linft.ntk.empirical import empirical_ntk


class Layers(nn.Module):
    """Of each kind one: plain, grouped, standardized and circular convolutions, and dense layers."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.tanh(nn.Conv(4, (3, 3), strides=2, kernel_dilation=(1, 2), padding=((1, 0), (2, 1)), name="plain")(x))
        x = nn.tanh(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
        x = nn.tanh(nn.Dense(4, name="pixels")(x))
        x = nn.tanh(nn.Conv(6, (3, 3), feature_group_count=2, name="grouped")(x))
        x = nn.tanh(StandardizedConv(4, (3, 3), name="standardized")(x))
        x = nn.tanh(nn.Conv(3, (2, 2), padding="CIRCULAR", name="circular")(x))
        x = nn.tanh(nn.Dense(3, name="hidden")(x.reshape(len(x), -1)))
        return nn.Dense(2, name="head")(x)


def explicit(model: linft.Model, x: jax.Array, y: jax.Array) -> dict[str, np.ndarray]:
    """Σ ∂f ∂f, by group."""
    ours, theirs = (jax.jit(jax.jacobian(lambda p, x=x: model.apply(p, x)))(model.params) for x in (x, y))
    found: dict[str, np.ndarray] = {}
    groups = jax.tree.leaves(trees.labels(model.params, model.layer_groups))
    for group, a, b in zip(groups, jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        a, b = (np.asarray(j).reshape(*j.shape[:2], -1) for j in (a, b))
        found[group] = found.get(group, 0) + np.einsum("nkp,mlp->nkml", a, b)
    return found


@pytest.fixture
def model(x64) -> linft.Model:
    model = drawn.make(Layers())
    return model.replace(params=jax.tree.map(lambda w: jnp.asarray(w, float), model.params))


@pytest.fixture
def x(x64) -> jax.Array:
    return jnp.asarray(np.random.default_rng(9).normal(size=(6, *drawn.SIZE)))


def adapted(model: linft.Model, start: bool) -> linft.Model:
    found = linft.lora(model, rank=2, alpha=3.0, key=jax.random.key(1))
    rng = np.random.default_rng(0)
    if start:
        return found
    return found.replace(params=jax.tree.map(lambda w: w + jnp.asarray(rng.normal(0, 0.3, w.shape)), found.params))


@pytest.mark.parametrize("start", [True, False], ids=["at the start", "later"])
def test_the_kernel_is_the_product_of_jacobians(model, x, start):
    found = adapted(model, start)
    kernels = train_test_ntk(found, x[:4], x[4:], engine="layerwise", groups=tuple(found.layer_groups))
    for kernel, rows in zip(kernels, (x[:4], x[4:]), strict=True):
        expected = explicit(found, rows, x[:4])
        assert list(kernel.blocks) == [g for g in found.layer_groups if g in expected]
        for group, block in kernel.blocks.items():
            assert np.abs(block).max() > 1e-6
            np.testing.assert_allclose(block, expected[group], rtol=1e-10, atol=1e-12)


def test_at_the_start_it_is_that_of_b(model, x):
    """Θ = (α/r)² Σ ⟨Aᵀ G, Aᵀ G'⟩ with G the gradient of the whole kernel, which the plain model has."""
    found = adapted(model, start=True)
    gradient = jax.jacobian(lambda p: model.apply(p, x))(model.params)["hidden"]["kernel"]
    a = np.asarray(found.params["hidden"]["lora_A"])
    along = np.einsum("nkio,ir->nkro", gradient, a)
    expected = 1.5**2 * np.einsum("nkro,mlro->nkml", along, along)
    np.testing.assert_allclose(empirical_ntk(found, x, groups=("hidden",)).blocks["hidden"], expected, rtol=1e-9)


def test_an_orthogonal_a_of_full_rank_has_the_kernel_of_the_layer(model, x):
    """Then B may be any change to the kernel, and by as much: ⟨Aᵀ G, Aᵀ G'⟩ = ⟨G, G'⟩."""
    found = linft.lora(model, rank=4, alpha=4.0, layers=("pixels",), key=jax.random.key(0))
    orthogonal, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))
    whole = {**found.params["pixels"], "lora_A": jnp.asarray(orthogonal)}
    found = found.replace(params=trees.put(found.params, "pixels", whole))
    expected = empirical_ntk(model, x, groups={"kernel": ("pixels/kernel",)} | rest(model, "pixels/kernel"))
    ours = empirical_ntk(found, x, groups=("pixels",)).blocks["pixels"]
    np.testing.assert_allclose(ours, expected.blocks["kernel"], rtol=1e-9, atol=1e-12)


def rest(model: linft.Model, path: str) -> dict[str, tuple[str, ...]]:
    paths = [trees.path_of(p) for p, _ in jax.tree_util.tree_leaves_with_path(model.params)]
    return {"rest": tuple(p for p in paths if p != path)}


def test_the_trace(model, x):
    found = adapted(model, start=False)
    full = explicit(found, x, x)
    for group, block in empirical_ntk(found, x, outputs="trace", groups=tuple(found.layer_groups)).blocks.items():
        np.testing.assert_allclose(block, np.einsum("nkmk->nm", full[group]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("start", [True, False], ids=["at the start", "later"])
def test_in_training_mode(model, digits, start):
    """Through the statistics, which follow the adapters, as one batch of all images has them."""
    found, images = adapted(model, start), digits.x_train[:6]
    x = model.preprocess(images)
    view = in_training_mode(found, images)

    def trained(p):
        return found.forward_train(p, found.batch_stats, x, jax.random.key(0))[0]

    np.testing.assert_allclose(view.apply(found.params, x), trained(found.params), rtol=1e-5)
    jacobian = jax.jit(jax.jacobian(trained))(found.params)
    groups = jax.tree.leaves(trees.labels(found.params, found.layer_groups))
    expected = dict.fromkeys(groups, 0.0)
    for group, j in zip(groups, jax.tree.leaves(jacobian), strict=True):
        j = np.asarray(j).reshape(*j.shape[:2], -1)
        expected[group] = expected[group] + np.einsum("nkp,mlp->nkml", j, j)
    kernel = empirical_ntk(view, x, groups=tuple(found.layer_groups), engine="layerwise")
    for group, block in kernel.blocks.items():
        np.testing.assert_allclose(block, expected[group], rtol=1e-4, atol=1e-6 * np.abs(expected[group]).max())
