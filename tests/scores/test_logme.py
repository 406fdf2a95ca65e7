"""LogME against the evidence of dense Gaussians, also with more features than images."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from linft import scores


def evidence(x, target):
    """The largest log density of a target under N(0, FFᵀ/α + I/β), over many starts; for each image."""
    n = len(x)
    gram = x @ x.T / np.mean(x**2)

    def negative(logs):
        covariance = np.exp(-logs[0]) * gram + np.exp(-logs[1]) * np.eye(n)
        return -multivariate_normal.logpdf(target, np.zeros(n), covariance, allow_singular=False) / n

    starts = [(a, b) for a in (0.0, 4.0, 8.0) for b in (2.0, 5.0)]
    options = {"xatol": 1e-7, "fatol": 1e-13, "maxiter": 2000}
    return max(-minimize(negative, start, method="Nelder-Mead", options=options).fun for start in starts)


def test_evidence_of_dense_gaussians(digits_as_features):
    x, y = digits_as_features
    x, y = x[y < 3], y[y < 3]
    features = x[:, 20:30] if len(y) > 20 else x  # [30, 10], [12, 64]
    expected = np.mean([evidence(features, (y == c).astype(float)) for c in range(3)])
    np.testing.assert_allclose(scores.logme(features, y), expected, atol=1e-8)


def test_features_that_are_zero_change_nothing(few):
    x, y = few
    np.testing.assert_allclose(scores.logme(np.pad(x, ((0, 0), (0, 500))), y), scores.logme(x, y), rtol=1e-10)


def test_features_that_know_nothing():
    """The best prior holds the weights at zero: the density of the targets alone."""
    features, y = np.array([[1.0, -1.0, 1.0, -1.0, 1.0, -1.0]]).T, np.array([0, 0, 1, 1, 0, 0])
    alone = [-np.log(2 * np.pi * share) / 2 - 1 / 2 for share in (4 / 6, 2 / 6)]
    np.testing.assert_allclose(scores.logme(features, y), np.mean(alone), atol=1e-9)


def test_an_exact_fit_by_few_features():
    y = np.array([0, 0, 1, 1, 2, 2])
    with pytest.raises(scores.Undefined, match="3 features fit a class of 6 images exactly"):
        scores.logme(np.eye(3)[y], y)
