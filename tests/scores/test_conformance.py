"""What every score of features or of a kernel keeps: frameworks, order, names of classes, scale, rotation."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest

from linft import scores
from linft.core.errors import LinftError
from linft.scores.table import SCORES


def probabilities(x):
    """Of four sources: digits are likelier to be of one whose prototype, one of the first four, they are near."""
    distance = np.square(x[:, None] - x[None, :4]).sum(-1)
    weights = np.exp(-distance / distance.mean())
    return weights / weights.sum(1, keepdims=True)


def residual(y):
    """Of a fresh head that gives every class its share."""
    one_hot = np.asarray(y)[:, None] == np.unique(y)
    return one_hot - one_hot.mean(0)


def domain_similarity(x, y):
    """Of a source whose classes are the first four images, each for nine; each image of the target for two."""
    means = np.stack([x[y == label].mean(0) for label in np.unique(y)])
    counts = np.unique(y, return_counts=True)[1]
    return scores.domain_similarity(x[:4], np.full(4, 9), means, np.maximum(2 * counts, 5))


@dataclass(frozen=True)
class Row:
    """A score as a function of features and labels, and what it claims."""

    of: Callable[..., float]
    keeps: frozenset[str]
    """What leaves it as it is: scale, rotation, shift, the order of the images."""
    labelled: bool = True
    """Whether it is larger with the right labels, and says that one class is no task."""


def row(of, *keeps, **claims):
    return Row(of, frozenset(keeps), **claims)


TABLE = {
    "alignment": row(lambda x, y: scores.alignment(x @ x.T, y), "scale", "rotation", "order"),
    "lgc": row(lambda x, y: scores.lgc(x @ x.T, y), "scale", "rotation", "order"),
    "lfc": row(scores.lfc, "scale", "rotation", "order"),
    # inputs are the ink of a digit, which hardly tells it; gradients are the pixels, which do
    "decorrelation_gap": row(lambda x, y: scores.decorrelation_gap(x.sum(1)[:, None], x, y), "scale", "order"),
    "training_speed": row(lambda x, y: scores.training_speed(x @ x.T, residual(y)), "scale", "rotation", "order"),
    "generalization": row(lambda x, y: scores.generalization(x @ x.T, residual(y), 0.1), "scale", "rotation", "order"),
    "leep": row(lambda x, y: scores.leep(probabilities(x), y), "scale", "rotation"),
    "nce": row(lambda x, y: scores.nce(probabilities(x).argmax(1), y), "scale", "rotation"),
    "nleep": row(lambda x, y: scores.nleep(x, y, components=6), "scale"),
    "logme": row(scores.logme, "scale", "rotation", "order"),
    "hscore": row(scores.hscore, "scale", "rotation", "shift", "order"),
    "fisher": row(lambda x, y: scores.fisher(x, y, ridge=0.1), "scale", "rotation", "shift", "order"),
    "transrate": row(scores.transrate, "scale", "rotation", "shift", "order"),
    "parc": row(scores.parc, "scale", "order"),
    "rsa": row(lambda x, y: scores.rsa(x, x[:, :32]), "scale", "order", labelled=False),
    "feature_metrics": row(lambda x, y: scores.feature_metrics(x), "scale", "order", labelled=False),
    "domain_similarity": row(domain_similarity, "rotation", "shift", labelled=False),
    "knn": row(scores.knn, "scale", "rotation", "order"),
    "linear_probe": row(scores.linear_probe, "scale", "rotation", "shift"),
    "probe_gap": row(lambda x, y: scores.probe_gap(scores.linear_probe(x, y), 0.3), "scale", "rotation", "shift"),
}
OF_FEATURES = ("lfc", "nleep", "logme", "hscore", "fisher", "knn", "linear_probe", "parc", "transrate")
every = pytest.mark.parametrize("name", TABLE)


def rows(claim):
    return pytest.mark.parametrize("name", [name for name, row in TABLE.items() if claim(row)])


def keeping(kind):
    return rows(lambda row: kind in row.keeps)


def test_every_score_is_here():
    assert set(TABLE) | {"random_score", "Undefined"} == set(scores.__all__)
    assert set(SCORES) - set(TABLE) == {"random", "predicted_accuracy"}  # of a name, and of a tangent


@every
def test_a_plain_number(name, digits_as_features):
    found = TABLE[name].of(*digits_as_features)
    assert type(found) is float and np.isfinite(found)


@rows(lambda row: row.labelled)
def test_labels_tell(name, digits_as_features):
    x, y = digits_as_features
    assert TABLE[name].of(x, y) > TABLE[name].of(x, np.random.default_rng(0).permutation(y))


@pytest.mark.parametrize("name", ["rsa", "feature_metrics"])
def test_labels_are_not_looked_at(name, many):
    x, y = many
    assert TABLE[name].of(x, y) == TABLE[name].of(x, np.random.default_rng(0).permutation(y))


@every
def test_arrays_of_another_framework_and_half_the_digits(name, many):
    x, y = many[0] / 16, many[1]  # which float32 holds exactly
    found = TABLE[name].of(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32))
    np.testing.assert_allclose(found, TABLE[name].of(x, y), rtol=2e-4, atol=1e-6)


@every
def test_names_of_classes_with_gaps(name, many):
    x, y = many
    np.testing.assert_allclose(TABLE[name].of(x, y * 7 - 3), TABLE[name].of(x, y), rtol=1e-12)


@keeping("order")
def test_order_of_images(name, many):
    x, y = many
    order = np.random.default_rng(0).permutation(len(y))
    np.testing.assert_allclose(TABLE[name].of(x[order], y[order]), TABLE[name].of(x, y), rtol=1e-9)


@pytest.mark.parametrize("factor", [1e-5, 3.0, 1e6])
@keeping("scale")
def test_scale(name, factor, digits_as_features):
    x, y = digits_as_features
    np.testing.assert_allclose(TABLE[name].of(factor * x, y), TABLE[name].of(x, y), rtol=1e-8)


@keeping("rotation")
def test_rotation(name, digits_as_features):
    x, y = digits_as_features
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 64)))[0]
    np.testing.assert_allclose(TABLE[name].of(x @ basis, y), TABLE[name].of(x, y), rtol=1e-8)


@keeping("shift")
def test_shift(name, digits_as_features):
    x, y = digits_as_features
    shift = np.random.default_rng(0).normal(size=x.shape[1])
    np.testing.assert_allclose(TABLE[name].of(x + 10 * shift, y), TABLE[name].of(x, y), rtol=1e-8)


@rows(lambda row: row.labelled)
def test_one_class_is_no_task(name, many):
    with pytest.raises(scores.Undefined, match=r"all 100 images are of one class|the residual is zero"):
        TABLE[name].of(many[0], np.full(100, 3))


WITHOUT_CLASSES = """
import numpy as np
from linft import scores
from linft.core.errors import LinftError
from linft.training.metrics import evaluate_probabilities

x = np.random.default_rng(0).normal(size=(12, 4))
p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
called = {name: (lambda y, name=name: getattr(scores, name)(x, y)) for name in {of_features}}
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
    subprocess.run(
        [sys.executable, "-c", WITHOUT_CLASSES.replace("{of_features}", repr(OF_FEATURES))], check=True
    )  # here their type alone would be refused


@pytest.mark.parametrize("name", sorted(TABLE.keys() - {"leep", "nce"}))
def test_features_that_are_not_finite(name, many):
    x = many[0].copy()
    x[5, 7] = np.nan
    with pytest.raises(scores.Undefined, match="not finite"):
        TABLE[name].of(x, many[1])


@pytest.mark.parametrize("name", OF_FEATURES)
@pytest.mark.parametrize("value", [0.0, 0.1])
def test_features_that_never_vary(name, value, many):
    with pytest.raises(scores.Undefined, match="all 100 images have the same"):
        TABLE[name].of(np.full((100, 64), value) * np.arange(64), many[1])


@every
def test_a_class_of_one_image(name, many):
    x, y = many
    kept = (y != 3) | (np.cumsum(y == 3) == 1)
    assert np.isfinite(TABLE[name].of(x[kept], y[kept]))


def test_undefined_is_an_error_of_input():
    assert issubclass(scores.Undefined, LinftError)
