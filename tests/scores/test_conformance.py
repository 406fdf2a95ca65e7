"""What every score of features or of a kernel keeps: frameworks, order, names of classes, scale, rotation."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from linft import scores
from linft.core.errors import LinftError


def probabilities(x):
    """Of four sources: digits are likelier to be of one whose prototype, one of the first four, they are near."""
    distance = np.square(x[:, None] - x[None, :4]).sum(-1)
    weights = np.exp(-distance / distance.mean())
    return weights / weights.sum(1, keepdims=True)


def residual(y):
    """Of a fresh head that gives every class its share."""
    one_hot = np.asarray(y)[:, None] == np.unique(y)
    return one_hot - one_hot.mean(0)


# score -> a function of features and labels, and what leaves it as it is
TABLE = {
    "alignment": (lambda x, y: scores.alignment(x @ x.T, y), {"scale", "rotation"}),
    "lgc": (lambda x, y: scores.lgc(x @ x.T, y), {"scale", "rotation"}),
    "lfc": (scores.lfc, {"scale", "rotation"}),
    "decorrelation_gap": (lambda x, y: scores.decorrelation_gap(x, x[:, ::-1] ** 2, y), {"scale"}),
    "training_speed": (lambda x, y: scores.training_speed(x @ x.T, residual(y)), {"scale", "rotation"}),
    "generalization": (lambda x, y: scores.generalization(x @ x.T, residual(y), 0.1), {"scale", "rotation"}),
    "leep": (lambda x, y: scores.leep(probabilities(x), y), {"scale", "rotation"}),
    "nce": (lambda x, y: scores.nce(probabilities(x).argmax(1), y), {"scale", "rotation"}),
    "nleep": (lambda x, y: scores.nleep(x, y, components=6), {"scale"}),
    "logme": (scores.logme, {"scale", "rotation"}),
    "hscore": (scores.hscore, {"scale", "rotation", "shift"}),
    "rsa": (lambda x, y: scores.rsa(x, x[:, :32]), {"scale"}),
    "feature_metrics": (lambda x, y: scores.feature_metrics(x), {"scale"}),
    "fisher": (lambda x, y: scores.fisher(x, y, ridge=0.1), {"scale", "rotation", "shift"}),
    "knn": (scores.knn, {"scale", "rotation"}),
    "linear_probe": (scores.linear_probe, {"scale", "rotation", "shift"}),
    "parc": (scores.parc, {"scale"}),
    "transrate": (scores.transrate, {"scale", "rotation", "shift"}),
}
ORDERED = {"nleep", "linear_probe"}  # where the order of the images draws the clusters' start, or deals the folds
PAIRS_FIRST = {"leep", "nce"}  # the sources here are the first four images
UNLABELLED = {"rsa", "feature_metrics"}
every = pytest.mark.parametrize("name", TABLE)


def test_every_score_of_arrays_is_here():
    elsewhere = {"domain_similarity", "probe_gap", "random_score", "Undefined"}
    assert set(TABLE) | elsewhere == set(scores.__all__)


@every
def test_a_plain_number(name, digits_as_features):
    found = TABLE[name][0](*digits_as_features)
    assert type(found) is float and np.isfinite(found)


@every
def test_labels_tell(name, digits_as_features):
    x, y = digits_as_features
    right, wrong = (TABLE[name][0](x, labels) for labels in (y, np.random.default_rng(0).permutation(y)))
    if name in UNLABELLED:
        assert right == wrong
    elif name != "decorrelation_gap":
        assert right > wrong


@every
def test_arrays_of_another_framework_and_half_the_digits(name, many):
    x, y = many[0] / 16, many[1]  # which float32 holds exactly
    found = TABLE[name][0](jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32))
    np.testing.assert_allclose(found, TABLE[name][0](x, y), rtol=2e-4, atol=1e-6)


@every
def test_names_of_classes_with_gaps(name, many):
    x, y = many
    np.testing.assert_allclose(TABLE[name][0](x, y * 7 - 3), TABLE[name][0](x, y), rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in TABLE if name not in ORDERED | PAIRS_FIRST])
def test_order_of_images(name, many):
    x, y = many
    order = np.random.default_rng(0).permutation(len(y))
    np.testing.assert_allclose(TABLE[name][0](x[order], y[order]), TABLE[name][0](x, y), rtol=1e-9)


def invariant(kind):
    return pytest.mark.parametrize("name", [name for name in TABLE if kind in TABLE[name][1]])


@pytest.mark.parametrize("factor", [1e-5, 3.0, 1e6])
@invariant("scale")
def test_scale(name, factor, digits_as_features):
    x, y = digits_as_features
    np.testing.assert_allclose(TABLE[name][0](factor * x, y), TABLE[name][0](x, y), rtol=1e-8)


@invariant("rotation")
def test_rotation(name, digits_as_features):
    x, y = digits_as_features
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 64)))[0]
    np.testing.assert_allclose(TABLE[name][0](x @ basis, y), TABLE[name][0](x, y), rtol=1e-8)


@invariant("shift")
def test_shift(name, digits_as_features):
    x, y = digits_as_features
    shift = np.random.default_rng(0).normal(size=x.shape[1])
    np.testing.assert_allclose(TABLE[name][0](x + 10 * shift, y), TABLE[name][0](x, y), rtol=1e-8)


@pytest.mark.parametrize("name", [name for name in TABLE if name not in UNLABELLED])
def test_one_class_is_no_task(name, many):
    with pytest.raises(scores.Undefined, match=r"all 100 images are of one class|the residual is zero"):
        TABLE[name][0](many[0], np.full(100, 3))


WITHOUT_CLASSES = """
import numpy as np
from linft import scores
from linft.errors import LinftError
from linft.evaluation import evaluate_probabilities

x = np.random.default_rng(0).normal(size=(12, 4))
p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
of_features = "lfc nleep logme hscore fisher knn linear_probe parc transrate".split()
called = {name: (lambda y, name=name: getattr(scores, name)(x, y)) for name in of_features}
called |= {name: (lambda y, name=name: getattr(scores, name)(x @ x.T, y)) for name in ("alignment", "lgc")}
called |= {
    "decorrelation_gap": lambda y: scores.decorrelation_gap(x, x, y),
    "leep": lambda y: scores.leep(p, y),
    "nce": lambda y: scores.nce(np.arange(12) % 3, y),
    "nce of the source": lambda y: scores.nce(y, np.arange(12) % 3),
    "evaluation": lambda y: evaluate_probabilities(p, y),
}
whole = np.arange(12) % 3
for wrong in (np.nan, np.inf, 0.5, None):
    labels = np.where(np.arange(12) == 5, wrong, whole)
    for name, call in called.items():
        try:
            value = call(labels)
        except LinftError as error:
            assert len(str(error).splitlines()) == 1
        else:
            raise AssertionError(f"{name} is {value} with a label {wrong}")
assert scores.leep(p, whole.astype(float)) == scores.leep(p, whole) == scores.leep(p, np.array(["a", "b", "c"])[whole])
"""


def test_labels_that_are_no_classes_are_refused():
    subprocess.run([sys.executable, "-c", WITHOUT_CLASSES], check=True)  # here their type alone would be refused


@pytest.mark.parametrize("name", sorted(TABLE.keys() - {"leep", "nce", "feature_metrics"}))
def test_features_that_are_not_finite(name, many):
    x = many[0].copy()
    x[5, 7] = np.nan
    with pytest.raises(scores.Undefined, match="not finite"):
        TABLE[name][0](x, many[1])


@pytest.mark.parametrize(
    "name", ["lfc", "nleep", "logme", "hscore", "fisher", "knn", "linear_probe", "parc", "transrate"]
)
@pytest.mark.parametrize("value", [0.0, 0.1])
def test_features_that_never_vary(name, value, many):
    with pytest.raises(scores.Undefined, match="all 100 images have the same"):
        TABLE[name][0](np.full((100, 64), value) * np.arange(64), many[1])


@every
def test_a_class_of_one_image(name, many):
    x, y = many
    kept = (y != 3) | (np.cumsum(y == 3) == 1)
    assert np.isfinite(TABLE[name][0](x[kept], y[kept]))


def test_undefined_is_an_error_of_input():
    assert issubclass(scores.Undefined, LinftError)
