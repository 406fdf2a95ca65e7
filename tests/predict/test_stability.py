"""The edge of stability is where the replay starts to grow, and its numbers are those of dense matrices."""

import numpy as np
import pytest

import linft
from linft import predict
from linft.core.recipe import Recipe

FULL = Recipe(loss="squared_error", batch_size=None, steps=400)
RULES = {
    "no momentum": {"momentum": 0.0, "nesterov": False},
    "heavy ball": {"nesterov": False},
    "Nesterov": {},
    "Nesterov, decay": {"l2sp": 1.0},
    "heavy ball, group rates": {"nesterov": False, "rate_multipliers": (("conv", 0.2), ("head", 4.0))},
    "Nesterov, the first half twice as fast": {"schedule": "step", "drop_at": (0.5,), "drop_factor": 0.5},
}


@pytest.mark.parametrize("name", RULES)
def test_the_edge_is_where_the_replay_grows(tangent, name):
    recipe = FULL.replace(**RULES[name])
    rate = predict.stability(tangent, recipe).largest_stable_rate
    below, above = (recipe.replace(learning_rate=factor * rate) for factor in (0.97, 1.03))
    for rule, factor in ((below, 0.97), (above, 1.03)):
        edge = predict.stability(tangent, rule)
        np.testing.assert_allclose(edge.h, factor * edge.limit, rtol=1e-6)
        assert edge.stable == (factor < 1)
    calm, wild = predict.dual(tangent, record_every=50).many([below, above])
    assert calm.diverged_at is None and calm.train_loss[-1] < calm.train_loss[0]
    assert wild.diverged_at is not None


def curvature(tangent: linft.Tangent, loss: str, batch: np.ndarray) -> float:
    """Largest eigenvalue of Θ H / b on a batch, from dense matrices."""
    c = tangent.logits_train.shape[1]
    theta = np.asarray(tangent.kernel_train.total())[batch][:, :, batch].reshape(len(batch) * c, -1)
    p = np.exp(tangent.logits_train) / np.exp(tangent.logits_train).sum(1)[:, None]
    hessian = np.zeros((len(batch), c, len(batch), c))
    for i, example in enumerate(batch):
        q = np.asarray(p[example])
        hessian[i, :, i] = np.eye(c) if loss == "squared_error" else np.diag(q) - np.outer(q, q)
    return np.linalg.eigvals(theta @ hessian.reshape(theta.shape)).real.max() / len(batch)


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize("batch_size", [None, 4, 1])
@pytest.mark.parametrize("classes", [3, 2])
def test_curvature_is_that_of_dense_matrices(tangent, two_classes, loss, batch_size, classes):
    tangent = tangent if classes == 3 else two_classes
    n = len(tangent.labels_train)
    recipe = Recipe(loss=loss, batch_size=batch_size, steps=12, schedule="cosine", weight_decay=0.3, warmup_steps=3)
    edge = predict.stability(tangent, recipe)
    whole = curvature(tangent, loss, np.arange(n))
    np.testing.assert_allclose(edge.lambda_max, whole, rtol=1e-5)
    rates = recipe.rates(n)
    np.testing.assert_allclose(edge.h, rates.max() * (whole + 0.3), rtol=1e-5)
    worst = max(rate * (curvature(tangent, loss, batch) + 0.3)
                for batch, rate in zip(recipe.batches(n), rates, strict=True))  # fmt: skip
    np.testing.assert_allclose(edge.worst_batch_h, max(worst, edge.h), rtol=1e-5)
    np.testing.assert_allclose(edge.largest_stable_rate, recipe.learning_rate * edge.limit / edge.h, rtol=1e-9)


def test_the_worst_batch_can_be_what_is_unstable(tangent):
    recipe = Recipe(loss="squared_error", batch_size=1, steps=10)
    edge = predict.stability(tangent, recipe)
    between = recipe.learning_rate * edge.limit * (0.5 / edge.h + 0.5 / edge.worst_batch_h)
    edge = predict.stability(tangent, recipe.replace(learning_rate=between))
    assert edge.h < edge.limit < edge.worst_batch_h and not edge.stable


def test_nothing_to_train_is_stable_at_any_rate(tangent):
    edge = predict.stability(tangent, FULL.replace(frozen_groups=("*",)))
    assert (edge.lambda_max, edge.h, edge.largest_stable_rate, edge.stable) == (0, 0, np.inf, True)
