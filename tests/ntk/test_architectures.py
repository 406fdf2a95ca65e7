"""Narrow networks of every kind: the layerwise kernel is that of the Jacobian, and of neural-tangents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from narrow import NARROW

from linft.core import trees
from linft.core.base import Model
from linft.ntk.empirical import empirical_ntk
from linft.ntk.layerwise.plan import plan
from linft.ntk.layerwise.rules import RULES

CLASSES, EXAMPLES = 2, 3


COVERED = ("cifar resnet", "cifar resnet, option b", "cifar densenet", "resnet, basic blocks", "resnet v1")  # elsewhere

APART = (
    "bit",
    "densenet",
    "inception v4",
    "alexnet",
    "wide resnet",
    "wide resnet for small images",
    "resnet v2",
)  # take longest to compile, and have no layer of their own


KINDS = [kind for kind in NARROW if kind not in COVERED]


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.slow) if n in APART else n for n in KINDS])
def network(request, x64) -> tuple[Model, jax.Array]:
    """In float64, all of its parameters and statistics moved at random, and images."""
    model = NARROW[request.param].create(CLASSES)
    rng = np.random.default_rng(0)

    def moved(path: tuple, leaf: jax.Array) -> jax.Array:
        value = leaf + 0.2 * rng.normal(size=leaf.shape)
        return jnp.asarray(abs(value) + 0.1 if trees.path_of(path).endswith("/var") else value, "float64")

    params, stats = jax.tree_util.tree_map_with_path(moved, (model.params, model.batch_stats))
    images = jnp.asarray(rng.normal(size=(EXAMPLES, *model.preprocessing.input_size)))
    return model.replace(params=params, batch_stats=stats), images


def test_layerwise_is_the_explicit_kernel(network):
    model, x = network
    layers = plan(model, x)
    assert not [layer.path for layer in layers if layer.rule is RULES[-1]], "the rule for any layer is a slow one"
    labels = trees.labels(model.params, model.stages)
    jacobian = jax.jit(jax.jacrev(lambda params: model.apply(params, x)))(model.params)
    expected = dict.fromkeys(model.stages, 0.0)
    for group, j in zip(jax.tree.leaves(labels), jax.tree.leaves(jacobian), strict=True):
        flat = np.reshape(j, (EXAMPLES, CLASSES, -1))
        expected[group] = expected[group] + np.einsum("ncp,mdp->ncmd", flat, flat)
    whole = {"all": tuple(model.params)}
    peer = empirical_ntk(model, x, outputs="full", engine="neural-tangents", groups=whole).total()
    np.testing.assert_allclose(peer, sum(expected.values()), rtol=0, atol=1e-10 * np.linalg.norm(peer))
    kernel = empirical_ntk(model, x, outputs="full", engine="layerwise")
    for group, block in kernel.blocks.items():
        assert np.linalg.norm(expected[group]) > 0
        np.testing.assert_allclose(block, expected[group], rtol=0, atol=1e-10 * np.linalg.norm(expected[group]))
