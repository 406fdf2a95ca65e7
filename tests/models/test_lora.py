"""Adapters of low rank: what they add, what trains, what is refused; and the plain model that they fold into."""

import drawn
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from narrow import NARROW

import linft
from linft.core import trees
from linft.core.constants import constants_of, statistics_of
from linft.core.errors import LinftError
from linft.models.batch_norm import over_parts, reestimated
from linft.models.lora import has_adapters, lora, merged, still

KEY = jax.random.key(0)


def moved(model: linft.Model, seed: int = 0) -> linft.Model:
    """The model at weights near by, no B zero."""
    rng = np.random.default_rng(seed)
    return model.replace(params=jax.tree.map(lambda w: w + jnp.asarray(rng.normal(0, 0.3, w.shape)), model.params))


def float64(model: linft.Model) -> linft.Model:
    return model.replace(params=jax.tree.map(lambda w: jnp.asarray(w, float), model.params))


@pytest.fixture
def model(x64) -> linft.Model:
    return float64(drawn.make(drawn.Normed()))


@pytest.fixture
def x(x64) -> jax.Array:
    return jnp.asarray(np.random.default_rng(9).normal(size=(5, *drawn.SIZE)))


def test_it_begins_as_the_model(model, x):
    adapted = lora(model, rank=2, key=KEY)
    np.testing.assert_array_equal(adapted.apply(adapted.params, x), model.apply(model.params, x))
    plain = merged(adapted)
    assert plain.digest == model.digest and plain.name == model.name and plain.forward is model.forward


def test_params_are_adapters_and_the_head(model):
    adapted = lora(model, rank=2, layers=("stage2",), key=KEY)
    paths = [trees.path_of(path) for path, _ in jax.tree.leaves_with_path(adapted.params)]
    assert paths == ["head/bias", "head/kernel", "stage2/conv/lora_A", "stage2/conv/lora_B"]
    a = adapted.params["stage2"]["conv"]["lora_A"]
    assert a.shape == (3, 3, 3, 2) and still(adapted.params) == {"stage2/conv/lora_A"}
    bound = 1 / np.sqrt(27)
    assert 0.8 * bound < np.abs(a).max() <= bound and abs(a.mean()) < 0.3 * bound


def test_a_kernel_is_moved_by_its_product(model, x):
    """Written out, of a convolution as a matrix."""
    adapted = moved(lora(model, rank=2, alpha=3.0, key=KEY))
    weights = merged(adapted).params
    for stage in ("stage1", "stage2"):
        own, before = adapted.params[stage]["conv"], np.asarray(model.params[stage]["conv"]["kernel"])
        a, b = np.asarray(own["lora_A"]).reshape(-1, 2), np.asarray(own["lora_B"])
        expected = before.reshape(len(a), -1) + 3.0 / 2 * a @ b
        np.testing.assert_allclose(weights[stage]["conv"]["kernel"], expected.reshape(before.shape), rtol=1e-12)
        assert weights[stage]["norm"] is not None
        np.testing.assert_array_equal(weights[stage]["norm"]["scale"], model.params[stage]["norm"]["scale"])
    np.testing.assert_array_equal(adapted.apply(adapted.params, x), merged(adapted).apply(weights, x))


def test_the_branch_is_two_convolutions(model, x):
    """(W + c A B) x = W x + c B (A x), with A a convolution of the kernel's size and B one of 1×1, as in PEFT."""
    own = moved(lora(model, rank=2, alpha=2.0, key=KEY)).params["stage1"]["conv"]
    kernel = jnp.tensordot(own["lora_A"], own["lora_B"], 1)

    def convolve(x: jax.Array, kernel: jax.Array, strides: int) -> jax.Array:
        layer = nn.Conv(kernel.shape[-1], kernel.shape[:2], strides, use_bias=False)
        return layer.apply({"params": {"kernel": kernel}}, x)

    narrow = convolve(x, own["lora_A"], 2)
    np.testing.assert_allclose(convolve(narrow, own["lora_B"][None, None], 1), convolve(x, kernel, 2), atol=1e-12)


def test_training_mode_is_that_of_the_merged_network(model, x):
    adapted = moved(lora(model, rank=2, key=KEY))
    logits, held = adapted.forward_train(adapted.params, adapted.batch_stats, x, KEY)
    plain = merged(adapted)
    expected, statistics = plain.forward_train(plain.params, plain.batch_stats, x, KEY)
    np.testing.assert_allclose(logits, expected, rtol=1e-12)
    for ours, theirs in ((statistics_of(held), statistics), (constants_of(held), constants_of(adapted.batch_stats))):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_statistics_are_reestimated_and_the_frozen_weights_stay(model, x):
    adapted, images = moved(lora(model, rank=2, key=KEY)), np.random.default_rng(0).integers(0, 256, (9, *drawn.SIZE))
    ours = reestimated(adapted, images.astype(np.uint8), batch=5)
    theirs = reestimated(merged(adapted), images.astype(np.uint8), batch=5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), merged(ours).batch_stats, theirs.batch_stats)
    jax.tree.map(np.testing.assert_array_equal, *(constants_of(m.batch_stats) for m in (ours, adapted)))
    _, held = over_parts(adapted, 3).forward_train(
        adapted.params, adapted.batch_stats, jnp.concatenate([x, x[:4]]), KEY
    )
    jax.tree.map(np.testing.assert_array_equal, constants_of(held), constants_of(adapted.batch_stats))


def test_alpha_is_part_of_what_a_model_is(model):
    one, other = (lora(model, rank=2, alpha=alpha, key=KEY) for alpha in (1.0, 2.0))
    assert one.digest != other.digest and one.forward == other.forward  # one program serves both


def test_a_new_head_is_trained_and_merged(model, x):
    adapted = lora(model, rank=2, key=KEY).with_head(3, KEY, scale=1.0)
    assert merged(adapted).num_classes == 3
    np.testing.assert_array_equal(merged(adapted).apply(merged(adapted).params, x), adapted.apply(adapted.params, x))


@pytest.mark.parametrize("name", NARROW)
def test_every_architecture_is_adapted(name):
    model = NARROW[name].create(3)
    adapted = lora(model, rank=1, key=KEY)
    x = jnp.ones((1, NARROW[name].size, NARROW[name].size, 3))
    shapes = jax.eval_shape(adapted.forward, adapted.params, adapted.batch_stats, x)
    assert shapes[0].shape == (1, 3)
    kernels = [p for p, leaf in jax.tree.leaves_with_path(model.params) if leaf.ndim > 1]
    assert len(jax.tree.leaves(adapted.params)) == 2 * (len(kernels) - 1) + len(model.params["head"])


REFUSED = {
    r"rank is 0; it must be 1 or more": {"rank": 0},
    r"rank is 4, and the kernel of stage1/conv has one of 3 at most; choose a smaller one": {"rank": 4},
    r"'stage7' names no layer group with kernels to adapt; Normed has stage1, stage2": {"layers": ("stage1", "stage7")},
    r"'head' names no layer group with kernels to adapt": {"layers": ("head",)},
    r"layers is empty; name layer groups": {"layers": ()},
    r"alpha is -1.0; it must be above 0": {"alpha": -1.0},
}


@pytest.mark.parametrize("message", REFUSED)
def test_refuses(model, message):
    with pytest.raises(LinftError, match=message):
        lora(model, **{"rank": 2, **REFUSED[message]}, key=KEY)


def test_refuses_adapters_upon_adapters_and_to_merge_without(model):
    adapted = lora(model, rank=2, key=KEY)
    with pytest.raises(LinftError, match="has adapters already"):
        lora(adapted, rank=2, key=KEY)
    for other in (model, linft.linearize(adapted)):
        assert not has_adapters(other)
        with pytest.raises(LinftError, match="has no adapters to fold in"):
            merged(other)
