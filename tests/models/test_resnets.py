"""The registered ResNets have the shapes and sizes of their papers, and frozen batch norm where asked."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linft.core import trees
from linft.core.errors import LinftError
from linft.core.preprocessing import Preprocessing
from linft.models import ARCHITECTURES, create, registry

# Parameters as torchvision and timm count them (1000 classes), and as He and others 2016 for option A and Zagoruyko
# and Komodakis 2016, who round to 36.5 M and 8.9 M (10 classes).
COUNTS = {
    "resnet18": (1000, 11_689_512),
    "resnet34": (1000, 21_797_672),
    "resnet50": (1000, 25_557_032),
    "resnet101": (1000, 44_549_160),
    "resnet152": (1000, 60_192_808),
    "wide_resnet101_2": (1000, 126_886_696),
    "resnet50_v1": (1000, 25_557_032),
    "resnetv2_50": (1000, 25_549_352),
    "resnetv2_101": (1000, 44_541_480),
    "resnetv2_50x1_bit": (1000, 25_549_352),
    "resnetv2_101x1_bit": (1000, 44_541_480),
    "wrn28_10": (10, 36_479_194),
    "wrn40_4": (10, 8_949_210),
    "cifar_resnet20": (10, 269_722),
    "cifar_resnet32": (10, 464_154),
    "cifar_resnet44": (10, 658_586),
    "cifar_resnet56": (10, 853_018),
    "cifar_resnet110": (10, 1_727_962),
}


DEEP = re.compile("101|110|152|169|56")  # as the others, but longer to trace


def deep_apart(names):
    return [pytest.param(name, marks=[pytest.mark.slow] * bool(DEEP.search(name))) for name in names]


@pytest.mark.parametrize("name", deep_apart(COUNTS))
def test_number_of_parameters(name):
    classes, expected = COUNTS[name]
    assert trees.count(registry.shapes(name, classes)["params"]) == expected


def test_option_b_adds_a_convolution_and_a_norm_to_each_narrowing():
    joined = registry.shapes("cifar_resnet20", 10, {"shortcut": "b"})["params"]
    assert trees.count(joined) == 269_722 + (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)


@pytest.mark.parametrize("name", deep_apart(ARCHITECTURES))
def test_layer_groups_are_a_partition(name):
    params, groups = registry.shapes(name, 10)["params"], registry.layer_groups(name, {})
    assert set(jax.tree.leaves(trees.labels(params, groups))) == set(groups)
    stages = trees.stages(groups)
    assert set(stages) == set(params) and list(stages)[-1] == ARCHITECTURES[name].head
    assert all(trees.path_of(path).startswith(stage) for stage, path in of_stages(params, stages))


def of_stages(params, stages):
    """Stage and path of every parameter."""
    labels = jax.tree.leaves(trees.labels(params, stages))
    return zip(labels, (path for path, _ in jax.tree_util.tree_leaves_with_path(params)), strict=True)


# Height and channels after the stem and each stage, and after each convolution of the second stage's first block.
SIZES = {
    "resnet18": ([(56, 64), (56, 64), (28, 128), (14, 256), (7, 512)], [28, 28]),
    "resnet50": ([(56, 64), (56, 256), (28, 512), (14, 1024), (7, 2048)], [56, 28, 28]),  # V1.5: not [28, 28, 28]
    "resnet50_v1": ([(56, 64), (56, 256), (28, 512), (14, 1024), (7, 2048)], [28, 28, 28]),
    "resnetv2_50": ([(56, 64), (56, 256), (28, 512), (14, 1024), (7, 2048)], [56, 28, 28]),
    "resnetv2_50x1_bit": ([(56, 64), (56, 256), (28, 512), (14, 1024), (7, 2048)], [56, 28, 28]),
    "wrn16_4": ([(32, 16), (32, 64), (16, 128), (8, 256)], [16, 16]),
    "cifar_resnet20": ([(32, 16), (32, 16), (16, 32), (8, 64)], [16, 16]),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_along_the_way(name):
    row, (stages, convolutions) = ARCHITECTURES[name], SIZES[name]
    module = row.build(num_classes=10)

    def outputs(variables, x):
        return module.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])[1]["intermediates"]

    x = jax.ShapeDtypeStruct((1, *row.preprocessing.input_size), jnp.float32)
    found = jax.eval_shape(outputs, registry.shapes(name, 10), x)
    blocks = [found[group]["__call__"][0].shape for group in list(trees.stages(registry.layer_groups(name, {})))[:-1]]
    assert [(shape[1], shape[3]) for shape in blocks] == stages
    block = found["stage2"]["block0"]
    assert [block[f"conv{i + 1}"]["__call__"][0].shape[1] for i in range(len(convolutions))] == convolutions


@pytest.fixture(scope="module", params=["cifar_resnet8", "resnet18"])
def model(request):
    """A narrow network for small images, with statistics and weights away from their initial values."""
    preprocessing = Preprocessing((32, 32, 3))
    model = create(request.param, 5, jax.random.key(0), preprocessing, width=4)
    rng = np.random.default_rng(1)

    def moved(leaf):
        return abs(leaf + jnp.asarray(rng.normal(0, 0.1, leaf.shape), leaf.dtype))

    return model.replace(batch_stats=jax.tree.map(moved, model.batch_stats))


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(2), (6, 32, 32, 3))


def test_examples_do_not_interact_where_batch_norm_is_frozen(model, x):
    apply = jax.jit(model.apply)
    np.testing.assert_allclose(apply(model.params, x)[:2], apply(model.params, x[:2]), rtol=1e-4, atol=1e-5)
    assert apply(model.params, x).shape == (6, 5)


def test_training_mode_keeps_running_averages_of_the_batch(model, x):
    _, changed = jax.jit(model.forward_train)(model.params, model.batch_stats, x, jax.random.key(0))
    kernel = model.params["stem"]["conv"]["kernel"]
    side = kernel.shape[0]
    stem = jax.lax.conv_general_dilated(
        x, kernel, (1, 1) if side == 3 else (2, 2), [(side // 2, side // 2)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    old, new = model.batch_stats["stem"]["norm"], changed["stem"]["norm"]
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * stem.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * stem.var((0, 1, 2)), rtol=1e-4)


def test_refuses_an_unknown_architecture():
    with pytest.raises(LinftError, match=r"no architecture 'vgg'; choose among cifar_resnet8, .*, resnet152"):
        create("vgg", 10, jax.random.key(0))
