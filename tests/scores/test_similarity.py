"""RSA, PARC, domain similarity, sparsities and the two that are no formulas, against scipy, POT and loops."""

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.spatial.distance import cdist, pdist
from scipy.stats import spearmanr, wasserstein_distance

from linft import scores
from linft.core.errors import LinftError
from linft.scores.feature_metrics import lifetime_sparsity, population_sparsity


def test_rsa_by_scipy(digits_as_features):
    x = digits_as_features[0]
    reference = np.tanh(x @ np.cos(np.arange(64 * 7)).reshape(64, 7) / 30)
    expected = spearmanr(pdist(x, "correlation"), pdist(reference, "correlation")).statistic
    np.testing.assert_allclose(scores.rsa(x, reference), expected, rtol=1e-9)
    np.testing.assert_allclose(scores.rsa(reference, x), expected, rtol=1e-9)


def test_parc_by_scipy(digits_as_features):
    x, y = digits_as_features
    expected = spearmanr(pdist(x, "correlation"), pdist(y[:, None], "hamming")).statistic
    np.testing.assert_allclose(scores.parc(x, y), expected, rtol=1e-9)


def test_pairs_that_are_alike_share_a_rank(many):
    """Copies of ten images: pairs of copies differ by round-off alone, which another order of sums changes."""
    x, y = np.tile(many[0][:10], (3, 1)) / 3, np.tile(many[1][:10], 3)
    backwards = x[:, ::-1].copy()
    assert scores.parc(x, y) == scores.parc(backwards, y)
    assert scores.rsa(x, x**2) == scores.rsa(backwards, backwards**2)


def test_images_that_correlate_with_nothing(many):
    x, y = many[0].copy(), many[1]
    x[4] = 0.1
    with pytest.raises(scores.Undefined, match="image 4 has the same number in all"):
        scores.parc(x, y)
    with pytest.raises(scores.Undefined, match="reference features: image 4"):
        scores.rsa(many[0], x)
    with pytest.raises(scores.Undefined, match="equally unlike"):
        scores.parc(x[:4], np.arange(4))
    with pytest.raises(scores.Undefined, match="2 images"):
        scores.rsa(x[:2], x[:2])


def domains(many):
    """Means and counts of digits 0 to 5 and 6 to 9, of which one class has too few."""
    x, y = many
    means = np.stack([x[y == c].mean(0) for c in range(10)])
    counts = np.array([10, 5, 7, 30, 4, 12, 10, 0, 5, 9])
    means[7] = np.nan  # no image, no mean
    return means[:6], counts[:6], means[6:], counts[6:]


def test_domain_similarity_by_linear_programming(many):
    source, n, target, m = domains(many)
    kept, held = n >= 5, m >= 5
    cost = cdist(source[kept], target[held])
    a, b = n[kept] / n[kept].sum(), m[held] / m[held].sum()
    rows = np.kron(np.eye(len(a)), np.ones(len(b)))
    columns = np.kron(np.ones(len(a)), np.eye(len(b)))
    plan = linprog(cost.ravel(), A_eq=np.concatenate([rows, columns]), b_eq=np.concatenate([a, b]))
    np.testing.assert_allclose(scores.domain_similarity(source, n, target, m), np.exp(-0.01 * plan.fun), rtol=1e-9)
    np.testing.assert_allclose(scores.domain_similarity(source, n, target, m, 0.2), np.exp(-0.2 * plan.fun), rtol=1e-8)
    import ot  # only now, as it has been loaded without what it need not load

    np.testing.assert_allclose(plan.fun, ot.emd2(a, b, cost), rtol=1e-9)


def test_domain_similarity_on_a_line(many):
    source, n, target, m = (z[..., 30:31] if np.ndim(z) == 2 else z for z in domains(many))
    kept, held = n >= 5, m >= 5
    distance = wasserstein_distance(source[kept, 0], target[held, 0], n[kept], m[held])
    np.testing.assert_allclose(scores.domain_similarity(source, n, target, m), np.exp(-0.01 * distance), rtol=1e-9)


def test_a_domain_is_like_itself(many):
    source, n, _, _ = domains(many)
    np.testing.assert_allclose(scores.domain_similarity(source, n, source[::-1], n[::-1]), 1, rtol=1e-12)


def test_domains_that_cannot_be_compared(many):
    source, n, target, m = domains(many)
    with pytest.raises(scores.Undefined, match="no target class has 5 images"):
        scores.domain_similarity(source, n, target, m % 5)
    with pytest.raises(LinftError, match="gamma is 0"):
        scores.domain_similarity(source, n, target, m, 0.0)
    with pytest.raises(scores.Undefined, match="not finite"):
        scores.domain_similarity(source, n, target, np.full(4, 9))


def written_out(rows):
    found = []
    for row in rows:
        if any(row):
            mean, square = sum(abs(v) for v in row) / len(row), sum(v**2 for v in row) / len(row)
            found.append((1 - mean**2 / square) / (1 - 1 / len(row)))
    return np.mean(found)


def test_sparsities(many):
    x = many[0]  # with pixels that are zero in all
    assert np.any(~x.any(0))
    np.testing.assert_allclose(population_sparsity(x), written_out(x), rtol=1e-12)
    np.testing.assert_allclose(lifetime_sparsity(x), written_out(x.T), rtol=1e-12)
    np.testing.assert_allclose(scores.feature_metrics(x), (written_out(x) + written_out(x.T)) / 2, rtol=1e-12)


def test_the_least_and_the_most_sparse():
    assert population_sparsity(np.outer([1.0, 2.0, 3.0], np.ones(5))) < 1e-12
    assert population_sparsity(np.eye(4)) == lifetime_sparsity(np.eye(4)) == 1
    with pytest.raises(scores.Undefined, match="two features"):
        scores.feature_metrics(np.array([[1.0], [2.0]]))


def test_random_scores_are_of_the_name_and_the_seed():
    found = {scores.random_score(f"model{i}", seed) for i in range(50) for seed in range(20)}
    assert len(found) == 1000 and min(found) >= 0 and max(found) < 1
    np.testing.assert_allclose(np.mean(list(found)), 0.5, atol=0.05)
    assert scores.random_score("model0", 1) == scores.random_score("model0", 1)


def test_probe_gap():
    assert scores.probe_gap(0.25, 0.5) == -0.25
    with pytest.raises(LinftError, match=r"scratch_accuracy is 50; give a share from 0 to 1"):
        scores.probe_gap(0.25, 50)
