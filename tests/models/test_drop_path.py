"""Residual networks that drop paths: where, how often, and that their mean is what is predicted."""

import drawn
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from narrow import NARROW

import linft
from linft.core.errors import LinftError
from linft.models import with_options
from linft.models.architectures import wide_resnet
from linft.models.randomness import draws
from linft.models.training_mode import in_training_mode

KEY = jax.random.key(0)
RESIDUAL = {
    "cifar resnet": {"blocks": 2},
    "resnet, basic blocks": {"blocks": (3, 1)},
    "resnet, bottlenecks": {"blocks": (3, 1)},
    "resnet v2": {"blocks": (3, 1)},
    "bit": {"blocks": (3, 1)},
    "wide resnet for small images": {"blocks": 2},
}


def small(name: str, **options) -> linft.Model:
    kind = NARROW[name]
    return kind._replace(options={**kind.options, **options}).create(3)


@pytest.mark.parametrize("name", RESIDUAL)
def test_rates_rise_linearly_from_zero(name):
    """As timm's drop_path_rate has it: of block i among n, rate · i / (n − 1)."""
    kind, found = NARROW[name], []

    def note(call, args, kwargs, context):
        if isinstance(context.module, nn.Dropout):
            found.append((context.module.rate, args[0].ndim - len(context.module.broadcast_dims)))
        return call(*args, **kwargs)

    model = small(name, **RESIDUAL[name], drop_path_rate=0.3)
    x = jnp.ones((2, kind.size, kind.size, 3))
    with nn.intercept_methods(note):
        jax.eval_shape(model.forward_train, model.params, model.batch_stats, x, KEY)
    assert [rate for rate, _ in found] == pytest.approx(np.linspace(0, 0.3, len(found)))
    assert len(found) == len(model.layer_groups) - 2 and {axes for _, axes in found} == {1}  # one draw an image


def test_a_branch_is_there_divided_or_is_not():
    """Image by image; so the mean over draws is the block without drop path."""
    block, x = wide_resnet.Block(4, 1, 0.25), jnp.asarray(np.random.default_rng(0).normal(size=(6, 5, 5, 4)))
    shapes = jax.eval_shape(lambda x: block.init({"params": KEY, "dropout": KEY}, x, True), x)
    variables, keys = drawn.like(shapes), jax.random.split(KEY, 400)
    plain = wide_resnet.Block(4, 1, 0.0)

    def trained(block: nn.Module, key: jax.Array) -> jax.Array:
        return block.apply(variables, x, True, rngs={"dropout": key}, mutable=["batch_stats"])[0]

    outputs = jax.jit(jax.vmap(lambda key: trained(block, key)))(keys)
    branch = trained(plain, KEY) - x
    kept = np.asarray(jnp.abs(outputs - x[None]).max((2, 3, 4)) > 0)
    expected = x[None] + kept[..., None, None, None] * branch[None] / 0.75
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    assert abs(kept.mean() - 0.75) < 0.03 and np.abs(kept.mean(0) - 0.75).max() < 0.1
    np.testing.assert_allclose(outputs.mean(0), trained(plain, KEY), atol=0.15 * float(jnp.abs(branch).max()))


@pytest.mark.parametrize("name", ["cifar resnet", "resnet, bottlenecks", "bit"])
def test_at_rate_zero_and_in_evaluation_mode_it_is_the_plain_network(name):
    plain, x = small(name), jnp.asarray(np.random.default_rng(0).normal(size=(2, *(NARROW[name].size,) * 2, 3)))
    for rate in (0.0, 0.5):
        model = with_options(plain, drop_path_rate=rate)
        assert jax.tree.structure(model.params) == jax.tree.structure(plain.params)
        np.testing.assert_array_equal(model.apply(model.params, x), plain.apply(plain.params, x))
        assert draws(model) == (rate > 0)
        trained, expected = (m.forward_train(m.params, m.batch_stats, x, KEY)[0] for m in (model, plain))
        assert bool((trained == expected).all()) == (rate == 0)


def test_what_is_linearized_in_training_mode_is_the_mean_network(digits):
    plain, images = small("cifar resnet"), digits.x_train[:4]
    model = with_options(plain, drop_path_rate=0.5)
    ours, theirs = (in_training_mode(m, images, rank=4) for m in (model, plain))
    x = model.preprocess(images)
    moved = jax.tree.map(lambda w: 1.01 * w, plain.params)
    for params in (plain.params, moved):
        np.testing.assert_array_equal(ours.apply(params, x), theirs.apply(params, x))


def test_a_real_run_in_training_mode_drops_paths(digits):
    """And one of frozen batch norm, which is in evaluation mode throughout, does not."""
    plain, recipe = small("cifar resnet").with_head(10, KEY), linft.Recipe(batch_size=8, steps=2)
    for batch_norm, same in (("train", False), ("frozen", True)):
        one, other = (
            linft.finetune(m, digits)(recipe.replace(batch_norm=batch_norm)).train_loss[-1]
            for m in (plain, with_options(plain, drop_path_rate=0.9))
        )
        assert (one == other) == same


def test_it_is_kept_in_a_file(tmp_path):
    model = with_options(small("cifar resnet"), drop_path_rate=0.25)
    linft.save_model(model, tmp_path / "model.safetensors")
    assert draws(linft.load_model(tmp_path / "model.safetensors"))


def test_refuses():
    model = small("cifar resnet")
    for rate in (-0.1, 1.0):
        with pytest.raises(LinftError, match=rf"drop_path_rate is {rate}; it must lie in \[0, 1\)"):
            with_options(model, drop_path_rate=rate)
    with pytest.raises(LinftError, match=r"mobilenet_v1 cannot be built with the options .*drop_path_rate"):
        with_options(small("mobilenet v1"), drop_path_rate=0.1)
    with pytest.raises(LinftError, match="has other weights at the options"):
        with_options(model, width=8)
    for other in (linft.linearize(model), linft.lora(model, rank=1, key=KEY), drawn.make(drawn.Normed())):
        with pytest.raises(LinftError, match="is not a plain network of a registered architecture"):
            with_options(other, drop_path_rate=0.1)
