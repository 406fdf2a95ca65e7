"""The features' kernel is that of explicit Jacobians, along all directions or few; its trace is known to its error."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linft
from linft import predict
from linft.core import trees
from linft.core.errors import LinftError
from linft.ntk.tiled import memory
from linft.predict.feature_tangent import leading, probing_error


@pytest.fixture(scope="module")
def jacobians(model, task) -> dict[str, np.ndarray]:
    """Of the features, by group [n d p], training images first."""
    x = model.preprocess(np.concatenate([task.x_train, task.x_test])).astype(float)
    found = jax.jit(jax.jacobian(lambda p: model.features(p, x)))(model.params)
    return {
        g: np.concatenate([np.reshape(j, (*j.shape[:2], -1)) for j in jax.tree.leaves(found[g])], -1)
        for g in model.stages
    }


def test_its_kernels_are_those_of_explicit_jacobians(model, task, jacobians):
    whole = predict.feature_tangent(model, task)
    low = predict.feature_tangent(model, task, outputs="low-rank", rank=1)
    assert whole.standard_error == low.standard_error == 0
    assert whole.groups == tuple(model.stages) and whole.projected.groups == ("conv", "norm", "hidden")
    u, n = np.asarray(low.directions), len(task.y_train)
    assert u.shape == (5, 4)
    for g, j in jacobians.items():
        if g == "head":
            assert not j.any()
            continue
        theta = np.einsum("nkp,mlp->nkml", j, j[:n])
        along = np.einsum("nkml,ka,lb->namb", theta, u, u)
        for found, expected in ((whole, theta), (low, along)):
            np.testing.assert_allclose(found.projected.kernel_train.blocks[g], expected[:n], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(found.projected.kernel_test.blocks[g], expected[n:], rtol=1e-9, atol=1e-12)
        weights = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(model.params[g])])
        np.testing.assert_allclose(whole.projected.weights_train[g], j[:n] @ weights, rtol=1e-9, atol=1e-12)


def test_the_leading_directions_hold_the_head_and_the_first_singular_vectors():
    rng = np.random.default_rng(0)
    features, head = rng.normal(size=(20, 6)) * np.arange(1, 7), rng.normal(size=(6, 2))
    u = leading(features, head, 3)
    assert u.shape == (6, 5)
    np.testing.assert_allclose(u.T @ u, np.eye(5), atol=1e-12)
    inside = np.concatenate([head, np.linalg.svd(features)[2][:3].T], 1)
    np.testing.assert_allclose(u @ (u.T @ inside), inside, atol=1e-12)
    assert leading(features, 0 * head, 3).shape == (6, 3)
    np.testing.assert_allclose(np.linalg.svd(leading(features, head, 9))[1], np.ones(6))
    with pytest.raises(LinftError, match="rank is -1; it must be 0 or more"):
        leading(features, head, -1)


def test_the_error_of_probes_is_their_spread_over_all_signs(jacobians):
    theta = sum(np.einsum("nkp,mlp->nkml", j[:3], j[:3]) for j in jacobians.values())
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=5)))
    traces = np.einsum("sk,nkml,sl->snm", signs, theta, signs)
    expected = np.sqrt(traces.var(0).sum() / (traces.mean(0) ** 2).sum())
    np.testing.assert_allclose(probing_error(theta, 1), expected)
    np.testing.assert_allclose(probing_error(theta, 4), expected / 2)
    assert probing_error(0 * theta, 1) == 0


def test_the_trace_is_right_to_its_error(model, task, jacobians):
    found = predict.feature_tangent(model, task, outputs="trace", draws=200)
    j = np.concatenate(list(jacobians.values()), -1)
    expected = np.einsum("nkp,mkp->nm", j, j)[:, : len(task.y_train)] / 5
    got = np.concatenate([found.projected.kernel_train.total(), found.projected.kernel_test.total()])
    off = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    assert 0.2 * found.standard_error < off < 3 * found.standard_error < 0.3


def test_says_its_size_and_refuses_what_does_not_fit(model, task, monkeypatch, caplog):
    with caplog.at_level("INFO", logger="linft"):
        predict.feature_tangent(model, task)
    assert r"the features' kernels are [50 × 50] and [30 × 50] for 3 layer groups: 0.00 GiB" in caplog.text
    monkeypatch.setattr(memory, "free_bytes", lambda: 10_000)
    with pytest.raises(LinftError, match=r"the kernel needs about .* GiB .*use fewer images, .*outputs=\"low-rank\""):
        predict.feature_tangent(model, task)


def test_refuses_features_that_do_not_move(task):
    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="head")(x.reshape(len(x), -1))

    variables = jax.jit(Linear().init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    model = linft.from_flax(Linear(), variables, "head", (8, 8, 1))
    assert trees.count(model.params) == 64 * 3 + 3
    with pytest.raises(LinftError, match=r"no parameter lies below the head.*use predict.dual"):
        predict.feature_tangent(model, task)


def test_few_directions_are_those_of_one_head(model, task):
    other = model.with_head(3, jax.random.key(5))
    head, narrow = other.params["head"], predict.feature_tangent(model, task, outputs="low-rank", rank=0)
    with pytest.raises(LinftError, match='few directions of the features are those of one head; take outputs="full"'):
        narrow.with_head(head)
    whole, expected = predict.feature_tangent(model, task).with_head(head), predict.feature_tangent(other, task)
    jax.tree.map(np.testing.assert_array_equal, whole.head, expected.head)
    np.testing.assert_allclose(whole.projected.kernel_test.total(), expected.projected.kernel_test.total(), rtol=1e-9)
