"""LEEP, NCE and N-LEEP against sums written out, and where source classes have no mass."""

import numpy as np
import pytest
from scipy.stats import entropy

from linft import scores
from linft.core.errors import LinftError


def written_out(p, y):
    """LEEP by loops over images, source and target classes."""
    n, s = p.shape
    total = 0.0
    for i in range(n):
        likelihood = 0.0
        for z in range(s):
            mass = sum(p[j, z] for j in range(n))
            of_class = sum(p[j, z] for j in range(n) if y[j] == y[i])
            likelihood += of_class / mass * p[i, z] if mass > 0 else 0.0
        total += np.log(likelihood)
    return total / n


@pytest.fixture
def head(few):
    """Images, the probabilities of five source classes, and labels."""
    x, y = few
    logits = x @ np.cos(np.arange(64 * 5)).reshape(64, 5) / 10
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True), y


def test_leep(head):
    p, y = head
    np.testing.assert_allclose(scores.leep(p, y), written_out(p, y), rtol=1e-12)


def test_source_classes_without_mass_add_nothing(head):
    p, y = head
    wider = np.concatenate([np.zeros((len(y), 2)), p, np.zeros((len(y), 1))], axis=1)
    np.testing.assert_allclose(scores.leep(wider, y), scores.leep(p, y), rtol=1e-14)


def test_nce_is_a_difference_of_entropies(head):
    p, y = head
    z = p.argmax(1)
    joint = np.zeros((5, 10))
    np.add.at(joint, (z, y), 1)
    np.testing.assert_allclose(scores.nce(z, y), entropy(joint.sum(1)) - entropy(joint.ravel()), rtol=1e-12)
    np.testing.assert_allclose(scores.nce(100 - 3 * z, y), scores.nce(z, y), rtol=1e-14)


def test_leep_of_certain_probabilities_is_nce(head):
    p, y = head
    z = p.argmax(1)
    np.testing.assert_allclose(scores.leep(np.eye(5)[z], y), scores.nce(z, y), rtol=1e-12)
    assert scores.leep(np.eye(10)[y], y) == scores.nce(y, y) == 0


def test_probabilities_that_do_not_depend_on_the_image_know_nothing(head):
    p, y = head
    shares = np.bincount(y) / len(y)
    same = np.broadcast_to(p[0], p.shape)
    np.testing.assert_allclose(scores.leep(same, y), -entropy(shares), rtol=1e-12)
    assert scores.leep(p, y) > scores.leep(same, y)


def test_rows_that_are_no_probabilities(head):
    p, y = head
    for rows in (np.log(p), 2 * p):
        with pytest.raises(scores.Undefined, match="give the softmax of the logits"):
            scores.leep(rows, y)


def test_clusters_that_are_the_classes(many):
    x, y = many
    apart = 1000 * np.cos(np.outer(y, np.arange(64))) + x
    assert scores.nleep(x, y, components=10) < scores.nleep(apart, y, components=10)
    np.testing.assert_allclose(scores.nleep(apart, y, components=10), 0, atol=1e-6)


def test_clusters_are_drawn_by_the_seed(many):
    assert scores.nleep(*many, seed=3) == scores.nleep(*many, seed=3)
    assert len({scores.nleep(*many, seed=seed) for seed in range(3)}) > 1


def test_one_cluster_knows_nothing(many):
    np.testing.assert_allclose(scores.nleep(*many, components=1), -np.log(10), rtol=1e-9)


@pytest.mark.parametrize("components", [0, 101])
def test_clusters_that_cannot_be(many, components):
    with pytest.raises(LinftError, match="give 1 to 100"):
        scores.nleep(*many, components=components)
