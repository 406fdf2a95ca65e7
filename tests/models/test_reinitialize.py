"""Reinitialising: the lower groups stay bit by bit, the upper ones are as drawn by the initialisers."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linft
from linft.core.base import ClassMeans, Model
from linft.core.errors import LinftError
from linft.core.preprocessing import Preprocessing
from linft.core.trees import path_of
from linft.models import registry
from linft.models.reinitialize import reinitialize

KEY = jax.random.key(5)
SMALL = Preprocessing((75, 75, 3))  # the smallest that the strides of Inception allow


def outline(name: str, **options) -> Model:
    """A registered network of five classes whose weights are all 7, and no number that an initialiser gives."""
    shapes = registry.shapes(name, 5, options)
    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 7, leaf.dtype), shapes)
    return registry.build(name, 5, variables, SMALL, options)


def leaves(model: Model, group: str) -> dict[str, np.ndarray]:
    """Weights and statistics of a layer group or a top-level module, by path."""
    prefixes = model.layer_groups.get(group, (group,))
    found = [(path_of(key), leaf) for key, leaf in jax.tree.leaves_with_path((model.params, model.batch_stats))]
    return {path: np.asarray(leaf) for path, leaf in found if path[2:].startswith(tuple(f"{p}/" for p in prefixes))}


NETWORKS = {
    "cifar_resnet8": dict(width=8),
    "cifar_densenet22": dict(growth=4),
    "inception_v4": dict(width=4, blocks=(1, 1, 1)),
}


@pytest.fixture(
    scope="module",
    params=["cifar_resnet8", *(pytest.param(n, marks=pytest.mark.slow) for n in ("cifar_densenet22", "inception_v4"))],
)
def pair(request) -> tuple[Model, Model]:
    """A network, and itself with the head and its last block drawn anew."""
    model = outline(request.param, **NETWORKS[request.param])
    return model, reinitialize(model, 2, KEY)


def test_lower_groups_stay_and_upper_ones_are_drawn(pair):
    old, new = pair
    *lower, last, head = old.layer_groups
    for group in lower:
        kept = leaves(new, group)
        assert kept and all((leaf == 7).all() for leaf in kept.values())
    for path, leaf in leaves(new, last).items():
        name = path.rpartition("/")[2]
        if name == "kernel":
            scale = np.sqrt(1 / np.prod(leaf.shape[:-1]))  # LeCun's: a variance of 1 / fan-in
            assert abs(leaf.std() / scale - 1) < 6 / np.sqrt(2 * leaf.size)
            assert abs(leaf.mean()) < 6 * scale / np.sqrt(leaf.size)
        else:
            assert (leaf == {"scale": 1, "bias": 0, "mean": 0, "var": 1}[name]).all()
    drawn = leaves(new, head)
    assert (drawn["0/head/bias"] == 0).all()
    assert abs(drawn["0/head/kernel"].std() / 0.01 - 1) < 6 / np.sqrt(2 * drawn["0/head/kernel"].size)


def test_shapes_and_types_stay(pair):
    old, new = pair
    for tree in ("params", "batch_stats"):
        before, after = getattr(old, tree), getattr(new, tree)
        assert jax.tree.map(lambda w: (w.shape, w.dtype), before) == jax.tree.map(lambda w: (w.shape, w.dtype), after)


@pytest.fixture(scope="module")
def resnet() -> Model:
    means = ClassMeans(np.zeros((5, 16)), np.ones(5, int))
    return outline("cifar_resnet8", width=4).replace(class_means=means)


def test_one_group_is_the_head_alone(resnet):
    new = reinitialize(resnet, 1, KEY)
    assert {g for g in new.layer_groups if any((leaf != 7).any() for leaf in leaves(new, g).values())} == {"head"}
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), new.batch_stats, resnet.batch_stats))
    assert new.class_means is None


def test_groups_may_be_finer_than_stages(resnet):
    below = ("stem", "stage1", "stage2", "stage3/block0/conv1", "stage3/block0/norm1")
    parts = {"rest": below, "last": ("stage3/block0/conv2", "stage3/block0/norm2"), "head": ("head",)}
    new = leaves(reinitialize(resnet.replace(layer_groups=parts), 2, KEY), "stage3")
    assert all((leaf == 7).all() == ("1" in path.split("/")[3]) for path, leaf in new.items())


class Asks(nn.Module):
    """Must be told its mode, and its head has no bias."""

    @nn.compact
    def __call__(self, x, deterministic):
        x = nn.Dropout(0.5, deterministic=deterministic)(x.reshape(len(x), -1))
        return nn.Dense(2, use_bias=False, name="head")(nn.tanh(nn.Dense(3, name="hidden")(x)))


def test_the_key_decides_and_logits_change():
    variables = jax.jit(lambda key: Asks().init(key, jnp.zeros((1, 4, 4, 1)), deterministic=True))(KEY)
    model = linft.from_flax(Asks(), variables, "head", (4, 4, 1)).with_head(4, init="zeros")
    first, again, other = (reinitialize(model, 2, jax.random.key(seed)) for seed in (1, 1, 2))
    assert jax.tree.all(jax.tree.map(np.array_equal, first.params, again.params))
    for layer in ("hidden", "head"):
        kernels = [np.asarray(m.params[layer]["kernel"]) for m in (model, first, other)]
        assert all((a != b).all() for a, b in itertools.combinations(kernels, 2))
    assert first.num_classes == 4 and first.class_means is None
    x = jnp.ones((1, 4, 4, 1))
    assert (np.asarray(first.apply(first.params, x)) != np.asarray(model.apply(model.params, x))).all()


@pytest.mark.parametrize("groups", [0, 6])
def test_refuses_groups_that_there_are_not(resnet, groups):
    with pytest.raises(LinftError, match=f"{groups} layer groups .* has 5: stem, stage1.block0, .* head"):
        reinitialize(resnet, groups, KEY)


def test_refuses_a_network_without_initialisers(resnet):
    with pytest.raises(LinftError, match="no linen module"):
        reinitialize(resnet.replace(module=None), 2, KEY)


def test_refuses_parameters_that_the_module_has_not(resnet):
    params = {**resnet.params, "stem": {**resnet.params["stem"], "adapter": np.zeros(3, np.float32)}}
    with pytest.raises(LinftError, match="other parameters than its module"):
        reinitialize(resnet.replace(params=params), 2, KEY)


def test_refuses_frozen_weights(resnet):
    with pytest.raises(LinftError, match="has frozen weights; reinitialise the model that its adapters were added to"):
        reinitialize(linft.lora(resnet, rank=1, key=KEY), 2, KEY)
