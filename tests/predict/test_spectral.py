"""The closed form is the replay, at any step at once, where there is a closed form."""

import numpy as np
import pytest
from replayed import HEAVY, NESTEROV, PLAIN

from linft import predict

N = 10


def assert_as_dual(tangent, recipe):
    got, expected = predict.spectral(tangent)(recipe), predict.dual(tangent)(recipe)
    np.testing.assert_array_equal(got.steps, expected.steps)
    assert got.diverged_at == expected.diverged_at
    for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy"):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=1e-9, err_msg=name)
    for kind in ("distance", "norm"):
        for group, length in getattr(expected, kind).items():
            np.testing.assert_allclose(getattr(got, kind)[group], length, rtol=1e-6, atol=1e-7, err_msg=group)
    return got


@pytest.mark.parametrize("recipe", [HEAVY, NESTEROV])
def test_spectral_is_dual_at_critical_damping(tangent, recipe):
    """There the companion matrix of the largest eigenvalue has one root twice, and no basis of eigenvectors."""
    matrix, m = np.asarray(tangent.kernel_train.total()).reshape(3 * N, 3 * N), recipe.momentum
    h = ((1 - m) / (1 + m)) ** 2 if recipe.nesterov else (1 - np.sqrt(m)) ** 2
    trace, determinant = ((1 + m) * (1 - h), m * (1 - h)) if recipe.nesterov else (1 + m - h, m)
    np.testing.assert_allclose(trace**2, 4 * determinant, rtol=1e-14)
    rate = h * N / np.linalg.eigvalsh(matrix)[-1]
    got = assert_as_dual(tangent, recipe.replace(learning_rate=float(rate)))
    assert got.train_loss[-1] < 0.9 * got.train_loss[0]


def test_one_decomposition_serves_every_rate(monkeypatch, tangent):
    decompositions = []
    eigh = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: decompositions.append(1) or eigh(matrix))
    runs = predict.spectral(tangent).many([NESTEROV, HEAVY, PLAIN.replace(learning_rate=0.01)])
    assert len(decompositions) == 1
    assert len({run.train_loss[-1] for run in runs}) == 3


def test_says_why_not():
    assert predict.why_not_spectral(NESTEROV, N) is None
    assert predict.why_not_spectral(NESTEROV.replace(batch_size=9), N) == "the batch is not all 10 images"
