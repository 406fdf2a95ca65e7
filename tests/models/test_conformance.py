"""What every architecture of the registry keeps: published sizes, groups in order, gradients, files."""

import re
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from narrow import NARROW

import linft
from linft.core import trees
from linft.core.errors import LinftError
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
    "densenet121": (1000, 7_978_856),
    "densenet169": (1000, 14_149_480),
    "mobilenet_v1": (1000, 4_231_976),
    "inception_v4": (1000, 42_679_816),
    "alexnet": (1000, 61_100_840),
}

# Height and channels, or features, after the stem and each stage, as the papers' tables have them.
SIZES = {
    "resnet18": [(56, 64), (56, 64), (28, 128), (14, 256), (7, 512)],
    "resnet50": [(56, 64), (56, 256), (28, 512), (14, 1024), (7, 2048)],
    "resnet50_v1": [(56, 64), (56, 256), (28, 512), (14, 1024), (7, 2048)],
    "resnetv2_50": [(56, 64), (56, 256), (28, 512), (14, 1024), (7, 2048)],
    "resnetv2_50x1_bit": [(56, 64), (56, 256), (28, 512), (14, 1024), (7, 2048)],
    "wrn16_4": [(32, 16), (32, 64), (16, 128), (8, 256)],
    "cifar_resnet20": [(32, 16), (32, 16), (16, 32), (8, 64)],
    "densenet121": [(56, 64), (56, 256), (28, 512), (14, 1024), (7, 1024)],
    "densenet169": [(56, 64), (56, 256), (28, 512), (14, 1280), (7, 1664)],
    "mobilenet_v1": [(112, 32), (112, 64), (56, 128), (28, 256), (14, 512), (7, 1024)],
    "inception_v4": [(35, 384), (35, 384), (17, 1024), (8, 1536)],
    "alexnet": [(27, 64), (13, 192), (6, 256), (4096,)],
}

# Height after each convolution of the second stage's first block.
WITHIN = {
    "resnet18": [28, 28],
    "resnet50": [56, 28, 28],  # V1.5: not [28, 28, 28]
    "resnet50_v1": [28, 28, 28],
    "resnetv2_50": [56, 28, 28],
    "resnetv2_50x1_bit": [56, 28, 28],
    "wrn16_4": [16, 16],
    "cifar_resnet20": [16, 16],
}

DEEP = re.compile("101|110|152|169|56|44|32|34|40_|28")  # as the others, but longer to trace


def deep_apart(names):
    return [pytest.param(name, marks=[pytest.mark.slow] * bool(DEEP.search(name))) for name in names]


@cache
def traced(name):
    """Shapes of the parameters, and of what every module puts out, in the order in which modules are called."""
    outputs = {}

    def note(call, args, kwargs, context):
        path = "/".join(context.module.path) + "/"
        outputs.setdefault(path, None)
        output = call(*args, **kwargs)
        if context.method_name == "__call__":
            outputs[path] = output.shape
        return output

    row, classes = ARCHITECTURES[name], COUNTS.get(name, (10, 0))[0]
    module, x = row.build(num_classes=classes), jnp.zeros((1, *row.preprocessing.input_size))
    with nn.intercept_methods(note):
        variables = jax.eval_shape(lambda key: module.init(key, x), jax.random.key(0))
    return variables["params"], outputs


@pytest.mark.parametrize("name", deep_apart(COUNTS))
def test_number_of_parameters(name):
    assert trees.count(traced(name)[0]) == COUNTS[name][1]


def test_option_b_adds_a_convolution_and_a_norm_to_each_narrowing():
    joined = registry.shapes("cifar_resnet20", 10, {"shortcut": "b"})["params"]
    assert trees.count(joined) == 269_722 + (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)


@pytest.mark.parametrize("name", deep_apart(SIZES))
def test_sizes_along_the_way(name):
    outputs = traced(name)[1]
    shapes = [outputs[f"{stage}/"] for stage in list(trees.stages(registry.layer_groups(name, {})))[:-1]]
    assert [(shape[1], *shape[3:]) for shape in shapes] == SIZES[name]


@pytest.mark.parametrize("name", WITHIN)
def test_where_a_block_has_its_stride(name):
    outputs, heights = traced(name)[1], WITHIN[name]
    assert [outputs[f"stage2/block0/conv{i + 1}/"][1] for i in range(len(heights))] == heights


@pytest.mark.parametrize("name", deep_apart(ARCHITECTURES))
def test_every_parameter_is_of_one_group_and_groups_are_in_the_order_of_the_pass(name):
    row, groups = ARCHITECTURES[name], registry.layer_groups(name, {})
    params, outputs = traced(name)
    paths = [trees.path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]

    def owners(path):
        return [group for group, own in groups.items() if any(path.startswith(f"{prefix}/") for prefix in own)]

    assert [owners(path) for path in paths] == [[label] for label in jax.tree.leaves(trees.labels(params, groups))]
    assert list(dict.fromkeys(group for path in outputs for group in owners(path))) == list(groups)
    stages = trees.stages(groups)
    assert set(stages) == set(params) and list(stages)[-1] == row.head and row.first in paths


LONGEST = "inception v4"  # to compile
KINDS = [pytest.param(kind, marks=[pytest.mark.slow] * (kind == LONGEST)) for kind in NARROW]


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    """A narrow network of every kind, with weights and statistics away from their initial values."""
    model = NARROW[request.param].create(5)
    rng = np.random.default_rng(0)

    def moved(path, leaf):
        value = leaf + jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype)
        return abs(value) + 0.1 if trees.path_of(path).endswith("/var") else value

    params, stats = jax.tree_util.tree_map_with_path(moved, (model.params, model.batch_stats))
    return model.replace(params=params, batch_stats=stats)


@pytest.fixture(scope="module")
def run(model):
    """Logits and gradients of all of them by the weights, and three images."""

    def energy(params, x):
        logits = model.apply(params, x)
        return (logits**2).sum(), logits

    compiler = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    program = jax.jit(jax.grad(energy, has_aux=True), compiler_options=compiler)
    x = jax.random.normal(jax.random.key(2), (3, *model.preprocessing.input_size))
    return lambda images: program(model.params, images)[::-1], x


def test_every_kind_is_here():
    """By the class of the module and what it is built with, but for numbers."""

    def kind(name):
        module = registry.network(name, 5, {})
        return str([getattr(module, field, None) for field in ("__class__", "block", "conv")])

    assert {kind(row.name) for row in NARROW.values()} == {kind(name) for name in ARCHITECTURES}


def test_images_do_not_interact_where_batch_norm_is_frozen(run):
    pass_over, x = run
    logits, _ = pass_over(x)
    assert logits.shape == (3, 5)
    size = float(np.abs(logits).max())
    np.testing.assert_allclose(pass_over(x.at[1:].set(0.5))[0][0], logits[0], rtol=1e-4, atol=1e-5 * size)
    assert np.abs(logits[0] - logits[1]).max() > 1e-4 * size


def test_every_group_has_a_finite_gradient(model, run):
    pass_over, x = run
    _, gradients = pass_over(x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    largest = dict.fromkeys(model.layer_groups, 0.0)
    labels = jax.tree.leaves(trees.labels(gradients, model.layer_groups))
    for group, leaf in zip(labels, jax.tree.leaves(gradients), strict=True):
        largest[group] = max(largest[group], float(np.abs(leaf).max()))
    assert min(largest.values()) > 0, largest


def test_saved_and_loaded_it_is_the_same(model, tmp_path):
    linft.save_model(model, tmp_path / "network.safetensors")
    again = linft.load_model(tmp_path / "network.safetensors")
    assert again.architecture == model.architecture and repr(again.module) == repr(model.module)
    assert again.layer_groups == model.layer_groups and again.preprocessing == model.preprocessing
    assert again.forward is model.forward
    before, after = ((each.params, each.batch_stats) for each in (model, again))
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_refuses_an_unknown_architecture():
    with pytest.raises(LinftError, match=r"no architecture 'vgg'; choose among cifar_resnet8, .*, resnet152"):
        create("vgg", 10, jax.random.key(0))


@pytest.mark.parametrize("kind", ["cifar resnet", "resnet, basic blocks"])
def test_training_mode_keeps_running_averages_of_the_batch(kind):
    model = NARROW[kind].create(5)
    x = jax.random.normal(jax.random.key(2), (6, *model.preprocessing.input_size))
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
