"""What one pass gathers, held against the model itself and the kernel engine."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest
from narrow import small_resnet

import linft
from linft.core import trees
from linft.core.base import ClassMeans
from linft.core.errors import LinftError
from linft.core.forward_pass import forward_pass
from linft.ntk.empirical import empirical_ntk
from linft.ntk.layerwise.last_convolution import last_convolution
from linft.scores.arrays import Undefined
from linft.scores.gather import ScoreGradients, gather
from linft.scores.last_layer import last_layer
from linft.scores.small_network import SmallNetwork
from linft.scores.table import SCORES, needs

NEEDS = ("features", "probabilities", "kernel")


@pytest.fixture(scope="module")
def model():
    model = small_resnet(4, width=16)
    means = ClassMeans(np.ones((4, 16), np.float32), np.array([9, 9, 9, 9], np.int32))
    return model.replace(source={"data": "birds", "class_names": list("abcd")}, class_means=means)


@pytest.fixture(scope="module")
def inputs(model, digits):
    return gather(model, digits, NEEDS, batch_size=10)  # in batches of 8, so that none is padded


def test_it_is_what_the_model_says(model, digits, inputs):
    x = model.preprocess(digits.x_train)
    np.testing.assert_allclose(inputs.features, model.features(model.params, x), rtol=1e-4, atol=1e-5)
    expected = jax.nn.softmax(model.apply(model.params, x))
    np.testing.assert_allclose(inputs.probabilities, expected, rtol=1e-4, atol=1e-6)
    leaves = [trees.path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(model.params)]
    apart = model.replace(layer_groups={path: (path,) for path in leaves})
    last = f"{last_convolution(model)}/kernel"
    expected = empirical_ntk(apart, x, outputs="trace", groups=[last]).total()
    np.testing.assert_allclose(inputs.kernel, expected, rtol=0, atol=2e-6 * np.linalg.norm(expected))


def test_with_adapters_it_is_the_network_that_they_make(model, digits, inputs):
    again = gather(linft.lora(model, rank=1, key=jax.random.key(0)), digits, NEEDS, batch_size=10)
    np.testing.assert_array_equal(again.kernel, inputs.kernel)


@pytest.mark.parametrize("batch_size", [5, 24])
def test_batches_do_not_matter(model, digits, inputs, batch_size):
    again = gather(model, digits, NEEDS, batch_size=batch_size)
    np.testing.assert_allclose(again.features, inputs.features, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(again.kernel, inputs.kernel, rtol=1e-4, atol=1e-5 * np.abs(inputs.kernel).max())


def test_features_alone_are_the_same(model, digits, inputs):
    alone = gather(model, digits, ("features",))
    np.testing.assert_allclose(alone.features, inputs.features, rtol=1e-4, atol=1e-5)
    assert alone.kernel is None
    with pytest.raises(Undefined, match="kernel was not gathered"):
        alone.given("kernel")


def test_some_of_the_images(model, digits, inputs):
    few = np.array([3, 17, 4])
    some = inputs.take(few)
    task = digits.replace(x_train=digits.x_train[few], y_train=digits.y_train[few])
    alone = gather(model, task, NEEDS)
    np.testing.assert_array_equal(some.labels, digits.y_train[few])
    for name in ("features", "probabilities", "kernel"):
        np.testing.assert_allclose(getattr(some, name), getattr(alone, name), rtol=1e-3, atol=1e-5)


def test_what_follows_from_it(inputs):
    for c, mean, count in zip(np.unique(inputs.labels), inputs.target_means, inputs.target_counts, strict=True):
        of = inputs.features[inputs.labels == c]
        np.testing.assert_allclose(mean, of.mean(0), rtol=1e-5)
        assert count == len(of)
    np.testing.assert_allclose(inputs.residual.sum(0), 0, atol=1e-12)
    assert inputs.residual[5, inputs.labels[5]] == pytest.approx(1 - np.mean(inputs.labels == inputs.labels[5]))


def test_the_last_layer_gives_the_gradient_of_its_kernel(model, digits):
    x = model.preprocess(digits.x_train[:3])
    path, direction = last_convolution(model), jax.numpy.array([1.0, -1.0, 0.5, 2.0])
    inputs, outputs = map(np.asarray, last_layer(model, path, x, direction))
    own = trees.get(model.params, path)

    def along(kernel, image):
        params = trees.put(model.params, path, {**own, "kernel": kernel})
        return model.apply(params, image[None])[0] @ direction

    exact = np.stack([jax.grad(along)(own["kernel"], image) for image in x]).reshape(3, -1)
    ours = np.einsum("ntp,ntq->npq", inputs, outputs).reshape(3, -1)
    np.testing.assert_allclose(ours @ ours.T, exact @ exact.T, rtol=1e-4)  # whatever the order of the entries


@pytest.mark.parametrize(
    ("gradients", "options"),
    [
        (ScoreGradients(("stage1", "head")), {"outputs": "trace", "groups": ("stage1", "head")}),
        (ScoreGradients(("head",), "pseudo", draws=2), {"outputs": "pseudo", "draws": 2, "groups": ("head",)}),
    ],
)
def test_the_kernel_of_layer_groups(model, digits, gradients, options):
    kernel = gather(model, digits, ("kernel",), gradients=gradients).kernel
    expected = empirical_ntk(model, model.preprocess(digits.x_train), **options).total()
    np.testing.assert_allclose(kernel, expected, rtol=1e-4, atol=1e-5 * np.abs(kernel).max())


def test_random_signs_over_the_last_convolution(model, digits, inputs):
    signs = gather(model, digits, ("kernel",), gradients=ScoreGradients(outputs="pseudo", draws=64)).kernel
    np.testing.assert_allclose(4 * signs, inputs.kernel, rtol=0, atol=0.3 * np.abs(inputs.kernel).max())
    assert np.corrcoef(signs.ravel(), inputs.kernel.ravel())[0, 1] > 0.98


def test_one_program_serves_every_model_of_an_architecture(model, digits):
    other = small_resnet(7, width=16, seed=1)
    assert other.forward is model.forward
    for each in (model, other):
        gather(each, digits, ("features",), batch_size=6)
    assert forward_pass(model.forward, "features") is forward_pass(other.forward, "features")
    programs = forward_pass(model.forward, "features")._cache_size()
    gather(small_resnet(9, width=16, seed=2), digits, ("features",), batch_size=6)
    assert forward_pass(model.forward, "features")._cache_size() == programs


def test_grey_images_are_those_of_three_equal_channels(model, digits, inputs):
    colour = digits.replace(x_train=np.repeat(digits.x_train, 3, axis=-1))
    assert digits.x_train.shape[-1] == 1
    np.testing.assert_allclose(gather(model, colour, ("features",)).features, inputs.features, rtol=1e-4, atol=1e-5)


def test_a_new_head_is_no_source_head(model, digits):
    fresh = model.with_head(10, jax.random.key(0))
    new = gather(fresh, digits, NEEDS)
    as_many = gather(model.with_head(4, jax.random.key(0)), digits, NEEDS)
    drawn = gather(small_resnet(4, width=16), digits, NEEDS)
    for name in ("leep", "nce"):
        for inputs in (new, as_many, drawn):
            with pytest.raises(Undefined, match="the model has no source head: its head is a new one"):
                SCORES[name](inputs)
    other = gather(model.replace(source={"class_names": list("abc")}), digits, NEEDS)
    with pytest.raises(Undefined, match="4 outputs for 3 source classes: its head is another one"):
        SCORES["leep"](other)


class Plain(nn.Module):
    """A user's network."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(5, name="top")(nn.relu(nn.Conv(8, (3, 3), name="conv")(x)).mean((1, 2)))


def test_its_own_head_is_a_source_head_whatever_is_known_of_the_source(model, digits):
    unknown = gather(model.replace(source={}, class_means=None), digits, NEEDS)
    variables = Plain().init(jax.random.key(0), np.zeros((1, 8, 8, 1)))
    user = linft.from_flax(Plain(), variables, "top", (8, 8, 1))
    tuned = user.with_head(10, jax.random.key(0)).trained(user.with_head(10, jax.random.key(1)).params, {})
    for inputs in (unknown, gather(user, digits, NEEDS), gather(tuned, digits, NEEDS)):
        assert SCORES["leep"](inputs) == linft.scores.leep(inputs.probabilities, digits.y_train)
        assert SCORES["nce"](inputs) == linft.scores.nce(inputs.probabilities.argmax(1), digits.y_train)
    logits = user.apply(user.params, user.preprocess(digits.x_train))
    expected = linft.scores.leep(jax.nn.softmax(logits), digits.y_train)
    assert SCORES["leep"](gather(user, digits, NEEDS)) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(Undefined, match="class means are unknown"):
        SCORES["domain_similarity"](unknown)
    assert -1 <= SCORES["lgc"](unknown) <= 1


def test_weights_that_are_not_finite_are_refused(model, digits):
    params = jax.tree.map(lambda leaf: leaf * np.nan, model.params)
    with pytest.raises(LinftError, match="weights or features that are not finite"):
        gather(model.replace(params=params), digits, ("features",))


@pytest.fixture(scope="module")
def everything(model):
    task = linft.load_task("digits").max_per_class(6)
    small = SmallNetwork(np.random.default_rng(0).normal(size=(60, 5)), 0.5)
    return gather(model, task, needs(SCORES), small=small)


def test_the_tangent_is_that_of_a_new_head_and_the_last_convolution(model, digits):
    found = gather(model, digits, ("tangent",), seed=5).given("tangent")
    fresh = model.with_head(10, jax.random.key(5))
    x = model.preprocess(digits.x_train)
    np.testing.assert_allclose(found.logits_train, fresh.apply(fresh.params, x), rtol=1e-3, atol=1e-5)
    head = empirical_ntk(fresh, x, outputs="trace", groups=["head"]).total()
    np.testing.assert_allclose(found.kernel_train.blocks["head"], head, rtol=1e-4)
    last = gather(fresh, digits, ("kernel",)).kernel
    np.testing.assert_allclose(found.kernel_train.blocks["last convolution"], last, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose([np.trace(a) for a in found.mixing.values()], 1, rtol=1e-5)


@pytest.mark.parametrize("name", SCORES)
def test_every_score_takes_its_inputs(everything, name):
    value = SCORES[name](everything)
    assert type(value) is float and np.isfinite(value)
    assert SCORES[name](everything) == value


@pytest.mark.parametrize("name", [name for name in SCORES if name != "random"])
def test_every_score_depends_on_the_model_alone(everything, name):
    assert SCORES[name](dataclasses.replace(everything, model="another name")) == SCORES[name](everything)
