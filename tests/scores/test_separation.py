"""H-score, Fisher score, TransRate, nearest neighbours and the linear probe against dense formulas and scikit-learn."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import LeaveOneOut, PredefinedSplit, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from linft import scores
from linft.core.errors import LinftError

INNER = [8 * row + column for row in range(2, 6) for column in range(2, 6)]  # pixels that vary within classes


def class_means(x, y):
    return np.stack([x[y == label].mean(0) for label in y])


def test_hscore_by_scikit_learns_shrinkage(digits_as_features):
    x, y = digits_as_features
    shrunk = LedoitWolf().fit(x)
    between = np.cov(class_means(x, y), rowvar=False, bias=True)
    expected = (1 - shrunk.shrinkage_) * np.trace(np.linalg.solve(shrunk.covariance_, between))
    np.testing.assert_allclose(scores.hscore(x, y), expected, rtol=1e-9)
    assert 0 < scores.hscore(x, y) < 9


def test_hscore_that_says_no_more():
    """Two classes without any variance within them; of more, the shrinkage is never quite 0."""
    y = np.repeat(np.arange(2), 20)
    with pytest.raises(scores.Undefined, match="saturated at classes − 1 = 1"):
        scores.hscore(np.eye(2)[y] + 1e-9 * np.sin(np.arange(80)).reshape(40, 2), y)


def test_hscore_of_random_features_does_not_saturate():
    """Without shrinkage every one of these has the score 3."""
    y = np.arange(40) % 4
    found = [scores.hscore(np.random.default_rng(seed).normal(size=(40, 60)), y) for seed in range(5)]
    assert max(found) < 1


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_fisher_by_dense_covariances(many, ridge):
    x, y = many[0][:, INNER], many[1]
    means = class_means(x, y)
    within = np.cov(x - means, rowvar=False, bias=True)
    within = within + ridge * np.trace(within) / len(within) * np.eye(len(within))
    expected = np.trace(np.linalg.solve(within, np.cov(means, rowvar=False, bias=True))) / 10
    np.testing.assert_allclose(scores.fisher(x, y, ridge), expected, rtol=1e-8)


def test_fisher_with_more_features_than_images(few):
    x, y = few
    with pytest.raises(scores.Undefined, match="40 images in 10 classes leave the covariance within classes singular"):
        scores.fisher(x, y)
    means = class_means(x, y)
    within = np.cov(x - means, rowvar=False, bias=True)
    within = within + 0.2 * np.trace(within) / 64 * np.eye(64)
    expected = np.trace(np.linalg.solve(within, np.cov(means, rowvar=False, bias=True))) / 10
    np.testing.assert_allclose(scores.fisher(x, y, ridge=0.2), expected, rtol=1e-8)


def test_features_that_are_zero_do_not_make_fisher_singular(many):
    x, y = many[0][:, INNER], many[1]
    wider = np.pad(x, ((0, 0), (0, 3)))
    np.testing.assert_allclose(scores.fisher(wider, y), scores.fisher(x, y), rtol=1e-8)


def test_transrate_by_determinants(digits_as_features):
    x, y = digits_as_features
    x, y = x[3:], y[3:]  # classes of unequal size
    z = x - x.mean(0)
    z = z / np.sqrt(np.mean(np.sum(z**2, axis=1)))

    def rate(part):
        return np.linalg.slogdet(np.eye(64) + part.T @ part / (len(part) * 1e-4))[1] / 2

    expected = rate(z) - sum(np.mean(y == c) * rate(z[y == c]) for c in np.unique(y))
    np.testing.assert_allclose(scores.transrate(x, y), expected, rtol=1e-9)


@pytest.mark.parametrize("k", [1, 5])
def test_neighbours_by_scikit_learn(many, k):
    x, y = many
    weight = (lambda distances: 1 + (1 - distances) / (2 * k + 1)) if k > 1 else "uniform"
    peer = KNeighborsClassifier(k, metric="cosine", weights=weight)
    expected = np.mean(cross_val_predict(peer, x, y, cv=LeaveOneOut()) == y)
    assert scores.knn(x, y, k) == expected


def test_probe_by_scikit_learn(digits_as_features):
    x, y = digits_as_features
    fold = np.empty(len(y), int)
    for c in range(10):
        fold[y == c] = (np.sum(y < c) + np.arange(np.sum(y == c))) % 4
    right = []
    for train, test in PredefinedSplit(fold).split():
        scale = np.sum((x[train] - x[train].mean(0)) ** 2)
        right.append(RidgeClassifier(alpha=0.01 * scale).fit(x[train], y[train]).predict(x[test]) == y[test])
    assert scores.linear_probe(x, y, folds=4, ridge=0.01) == np.mean(np.concatenate(right))


@pytest.mark.parametrize("score", [scores.knn, scores.linear_probe])
def test_an_image_alone_in_its_class_is_not_judged(score, many):
    x, y = many
    kept = (y != 3) | (np.cumsum(y == 3) == 1)
    right = score(x[kept], y[kept]) * (np.sum(kept) - 1)
    assert 45 < right < 90
    np.testing.assert_allclose(right, round(right), atol=1e-9)
    with pytest.raises(scores.Undefined, match="no class has two images"):
        score(x[:10], np.arange(10))


def test_input_that_cannot_be(many):
    x, y = many
    for call, reason in (
        (lambda: scores.knn(x, y, 0), "k is 0; give 1 to 99"),
        (lambda: scores.knn(x, y, 100), "k is 100; give 1 to 99"),
        (lambda: scores.linear_probe(x, y, folds=1), "folds is 1; give 2 to 100"),
        (lambda: scores.linear_probe(x, y, ridge=0.0), "ridge is 0.0; it must be above 0"),
        (lambda: scores.fisher(x, y, ridge=-1.0), "ridge is -1.0; it must be 0 or more"),
        (lambda: scores.transrate(x, y, distortion=0.0), "distortion is 0.0; it must be above 0"),
    ):
        with pytest.raises(LinftError, match=reason):
            call()
    with pytest.raises(scores.Undefined, match="image 0 are zero"):
        scores.knn(x * (np.arange(100) > 0)[:, None], y)
