"""Narrow networks of every kind: the layerwise kernel is that of the Jacobian, and of neural-tangents."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linft.core import trees
from linft.core.base import Model
from linft.core.preprocessing import Preprocessing
from linft.models import create
from linft.ntk.empirical import empirical_ntk
from linft.ntk.layerwise.plan import plan
from linft.ntk.layerwise.rules import RULES

CLASSES, EXAMPLES = 2, 3


class Narrow(NamedTuple):
    """A registered network, small enough for its whole Jacobian."""

    name: str
    options: dict[str, Any]
    size: int = 32


TWO_STAGES = {"blocks": (1, 1), "width": 4}  # have every kind of layer that four have

NETWORKS = {
    "resnet, bottlenecks": Narrow("resnet50", TWO_STAGES),
    "wide resnet": Narrow("wide_resnet101_2", TWO_STAGES),
    "resnet v2": Narrow("resnetv2_50", TWO_STAGES),
    "bit": Narrow("resnetv2_50x1_bit", TWO_STAGES | {"groups": 2}),
    "wide resnet for small images": Narrow("wrn16_4", {"blocks": 1, "factor": 2, "width": 4}, 16),
    "densenet": Narrow("densenet121", {"layers": (2, 0, 0, 0), "growth": 8, "width": 8, "bottleneck": 2}),
    "mobilenet v1": Narrow("mobilenet_v1", {"blocks": (1, 2), "width": 2}),
    "inception v4": Narrow("inception_v4", {"blocks": (0, 0, 1), "width": 1}, 75),
    "alexnet": Narrow("alexnet", {"width": 1}, 63),
}


APART = (
    "bit",
    "densenet",
    "inception v4",
    "alexnet",
    "wide resnet",
    "wide resnet for small images",
    "resnet v2",
)  # take longest to compile, and have no layer of their own


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.slow) if n in APART else n for n in NETWORKS])
def network(request, x64) -> tuple[Model, jax.Array]:
    """In float64, all of its parameters and statistics moved at random, and images."""
    name, options, size = NETWORKS[request.param]
    model = create(name, CLASSES, jax.random.key(0), Preprocessing((size, size, 3)), **options)
    rng = np.random.default_rng(0)

    def moved(path: tuple, leaf: jax.Array) -> jax.Array:
        value = leaf + 0.2 * rng.normal(size=leaf.shape)
        return jnp.asarray(abs(value) + 0.1 if trees.path_of(path).endswith("/var") else value, "float64")

    params, stats = jax.tree_util.tree_map_with_path(moved, (model.params, model.batch_stats))
    images = jnp.asarray(rng.normal(size=(EXAMPLES, size, size, 3)))
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
