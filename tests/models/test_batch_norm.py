"""Batch norm: re-estimated statistics are those of the images, and parts of a batch are batches of their own."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import SIZE, make

import linft
from linft.core.base import Model
from linft.core.errors import LinftError
from linft.models import registry
from linft.models.batch_norm import over_parts, reestimated

KEY = jax.random.key(3)


class Net(nn.Module):
    """A linear map of the image, so that what its norm sees can be computed by hand, then a second norm."""

    momentum: float = 0.9
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(6, name="linear")(x.reshape(len(x), -1))
        x = nn.tanh(nn.BatchNorm(use_running_average=not train, momentum=self.momentum, name="norm1")(x))
        x = nn.Dense(5, name="hidden")(nn.Dropout(self.dropout, deterministic=not train)(x))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.97, name="norm2")(x)
        return nn.Dense(10, name="head")(nn.tanh(x))


class Plain(nn.Module):
    """With a training mode, and nothing to estimate."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(10, name="head")(nn.Dropout(0.5, deterministic=not train)(x.reshape(len(x), -1)))


class Always(nn.Module):
    """Without a training mode."""

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True, name="norm")(x.reshape(len(x), -1))
        return nn.Dense(10, name="head")(x)


class Counting(nn.Module):
    """With a statistic that is no mean and no variance."""

    @nn.compact
    def __call__(self, x, train=False):
        calls = self.variable("batch_stats", "calls", lambda: jnp.zeros(()))
        if train:
            calls.value = 0.5 * calls.value
        return nn.Dense(10, name="head")(x.reshape(len(x), -1))


@pytest.fixture(scope="module")
def model() -> Model:
    return make(Net())


@pytest.fixture(scope="module")
def x(model, digits) -> jax.Array:
    return jnp.asarray(digits.x_train / 127.5 - 1, jnp.float32)


def training(model: Model) -> Callable:
    assert model.forward_train is not None
    return jax.jit(model.forward_train)


def close(a, b, tolerance: float = 1e-5) -> None:
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=tolerance, atol=tolerance), a, b)


def test_statistics_of_one_batch_give_the_logits_of_training_mode(model, digits, x):
    target = reestimated(model, digits.x_train)
    trained, _ = training(model)(model.params, model.batch_stats, x, KEY)
    plain = jax.jit(model.forward)
    close(plain(model.params, target.batch_stats, x)[0], trained)
    assert float(jnp.abs(plain(model.params, model.batch_stats, x)[0] - trained).max()) > 0.1


def test_statistics_of_one_batch_in_a_registered_network(digits):
    model = registry.create("cifar_resnet8", 10, jax.random.key(0), width=2)
    images = digits.x_train[:8]
    target, x = reestimated(model, images), model.preprocess(images)
    trained, _ = training(model)(model.params, model.batch_stats, x, KEY)
    close(jax.jit(model.forward)(model.params, target.batch_stats, x)[0], trained, 1e-4)


@pytest.mark.parametrize("batch", [10, 23])
def test_the_first_norm_sees_the_images_whatever_the_batch(model, digits, batch):
    images = digits.x_train[:23]  # in three parts: 8, 7 and 8
    linear = jax.tree.map(lambda w: np.asarray(w, np.float64), model.params["linear"])
    inputs = (images.reshape(23, -1) / 127.5 - 1) @ linear["kernel"] + linear["bias"]
    statistics = reestimated(model, images, batch).batch_stats["norm1"]
    np.testing.assert_allclose(statistics["mean"], inputs.mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(statistics["var"], inputs.var(0), rtol=1e-4)


def test_later_norms_are_pooled_over_batches_that_normalise_themselves(model, digits):
    halves = [reestimated(model, digits.x_train[part]).batch_stats["norm2"] for part in (slice(12), slice(12, 24))]
    means, variances = (np.stack([np.asarray(h[name], np.float64) for h in halves]) for name in ("mean", "var"))
    pooled = reestimated(model, digits.x_train, 12).batch_stats["norm2"]
    close(pooled, {"mean": means.mean(0), "var": variances.mean(0) + means.var(0)})


def test_neither_order_nor_momentum_nor_old_statistics_matter(model, digits):
    expected = reestimated(model, digits.x_train, 12).batch_stats
    close(reestimated(model, digits.x_train[::-1], 12).batch_stats, expected)
    slow = make(Net(momentum=0.999)).replace(params=model.params)
    close(reestimated(slow, digits.x_train, 12).batch_stats, expected, 2e-4)  # 1 − m has but four digits in float32
    other = model.replace(batch_stats=jax.tree.map(lambda s: 100 + s, model.batch_stats))
    close(reestimated(other, digits.x_train, 12).batch_stats, expected)


def test_large_statistics_keep_their_digits(model, digits):
    params = {**model.params, "linear": jax.tree.map(lambda w: 1e4 * np.asarray(w), model.params["linear"])}
    small = reestimated(model, digits.x_train).batch_stats["norm1"]
    large = reestimated(model.replace(params=params), digits.x_train).batch_stats["norm1"]
    np.testing.assert_allclose(large["mean"], 1e4 * small["mean"], rtol=1e-5)
    np.testing.assert_allclose(large["var"], 1e8 * small["var"], rtol=1e-5)


def test_dropout_is_off_while_statistics_are_estimated(model, digits):
    dropping = make(Net(dropout=0.5)).replace(params=model.params)
    close(reestimated(dropping, digits.x_train).batch_stats, reestimated(model, digits.x_train).batch_stats)


def test_weights_stay_and_class_means_go(model, digits):
    means = linft.core.base.ClassMeans(np.zeros((2, 5)), np.array([1, 1]))
    target = reestimated(model.replace(class_means=means), digits.x_train)
    assert jax.tree.all(jax.tree.map(lambda new, old: new is old, target.params, model.params))
    assert target.class_means is None
    assert jax.tree.structure(target.batch_stats) == jax.tree.structure(model.batch_stats)


def test_parts_are_batches_of_their_own(model, x):
    logits, changed = training(over_parts(model, 8))(model.params, model.batch_stats, x, KEY)
    train = training(model)
    each = [train(model.params, model.batch_stats, x[i : i + 8], KEY) for i in (0, 8, 16)]
    close(logits, jnp.concatenate([part for part, _ in each]))
    close(changed, jax.tree.map(lambda *s: sum(s) / 3, *(statistics for _, statistics in each)))
    whole, _ = train(model.params, model.batch_stats, x, KEY)
    assert float(jnp.abs(logits - whole).max()) > 0.05


@pytest.mark.parametrize("size", [24, None])
def test_one_part_is_the_whole_batch(model, x, size):
    one = training(over_parts(model, size))(model.params, model.batch_stats, x, KEY)
    close(one, training(model)(model.params, model.batch_stats, x, KEY))


def test_parts_drop_different_units(x):
    model = make(Net(dropout=0.5))
    twins = np.concatenate([x[:4], x[:4]])
    logits, _ = training(over_parts(model, 4))(model.params, model.batch_stats, twins, KEY)
    assert float(np.ptp(np.reshape(logits, (2, -1)), axis=0).max()) > 0.05


def test_evaluation_mode_knows_no_parts(model):
    assert over_parts(model, 8).forward is model.forward


@pytest.mark.parametrize(
    "use, message",
    [
        (lambda m, t: reestimated(make(Plain()), t.x_train), "Plain has no batch norm"),
        (lambda m, t: reestimated(make(Always()), t.x_train), "Always has no training mode"),
        (lambda m, t: reestimated(linft.linearize(m), t.x_train), "linearized.* has no training mode"),
        (lambda m, t: reestimated(make(Counting()), t.x_train), "keeps calls; only mean and var"),
        (lambda m, t: reestimated(make(Net(momentum=1.0)), t.x_train), "momentum 1"),
        (lambda m, t: reestimated(m, t.x_train[:0]), "0 images in batches of 250"),
        (lambda m, t: reestimated(m, t.x_train, 0), "24 images in batches of 0"),
        (lambda m, t: over_parts(make(Always()), 8), "Always has no training mode"),
        (lambda m, t: over_parts(m, 0), "over parts of 0 images"),
        (
            lambda m, t: training(over_parts(m, 5))(m.params, m.batch_stats, jnp.zeros((24, *SIZE)), KEY),
            "24 images is not a multiple of batch norm's 5",
        ),
    ],
)
def test_refused(model, digits, use, message):
    with pytest.raises(LinftError, match=message):
        use(model, digits)
