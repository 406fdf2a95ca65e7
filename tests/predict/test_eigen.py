"""Cheap kernels are what their expansion to every pair of logits is, though that is never formed."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linft
from linft import predict
from linft.core.base import Kernel, Tangent
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.ntk.tiled import memory
from linft.predict import eigen
from linft.predict.operator import on_host, operator
from linft.predict.spectrum import half_learnt, spectrum
from linft.predict.tangent import to_trace

RECIPE = Recipe(learning_rate=0.02, loss="squared_error", batch_size=None, steps=30, momentum=0.9)
GROUPS = {"all groups": {}, "the head alone": {"frozen_groups": ("conv", "norm", "hidden")}}


@pytest.fixture(scope="module", params=["trace", "pseudo", "one mixing"])
def cheap(request, model, task, tangent) -> Tangent:
    """Of a kernel with a mixing for every group, of one whose mixings commute, and of one K ⊗ A."""
    if request.param == "pseudo":
        return predict.tangent(model, task, outputs="pseudo", draws=3)
    found = to_trace(tangent)
    return (
        found if request.param == "trace" else found.replace(mixing=dict.fromkeys(found.groups, found.mixing["conv"]))
    )


@pytest.fixture(scope="module")
def whole(cheap) -> Tangent:
    """The same with its kernels written out by NumPy."""
    classes = cheap.logits_train.shape[1]

    def expanded(kernel: Kernel) -> Kernel:
        factor = classes if kernel.outputs == "pseudo" else 1
        blocks = {
            g: jnp.asarray(factor * np.kron(k, cheap.mixing[g]).reshape(len(k), classes, -1, classes))
            for g, k in kernel.blocks.items()
        }
        return Kernel(blocks, "full")

    return cheap.replace(kernel_train=expanded(cheap.kernel_train), kernel_test=expanded(cheap.kernel_test))


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_spectrum(cheap, whole, loss):
    """Along eigenvalues that are there twice shares are not defined, but down to any eigenvalue they are."""
    n, c = cheap.logits_train.shape
    values, vectors = np.linalg.eigh(np.asarray(whole.kernel_train.total()).reshape(n * c, -1))
    start = cheap.logits_train if loss == "squared_error" else jax.nn.softmax(cheap.logits_train)
    residual = np.asarray(np.eye(c)[cheap.labels_train] - start).reshape(-1)
    shares = (vectors.T @ residual) ** 2 / (residual @ residual)
    for kernel, most in ((cheap, 200), (cheap, 4), (whole, 200), (whole, 4)):
        found = spectrum(kernel, loss, most)
        assert len(found.eigenvalues) == len(found.label_alignment) == min(most, n * c)
        np.testing.assert_allclose(found.eigenvalues, values[::-1][:most], rtol=1e-8, atol=1e-9 * values[-1])
        for level in values[::-1][:3] * (1 - 1e-6):
            above = np.array(found.eigenvalues) > level
            assert np.array(found.label_alignment)[above].sum() == pytest.approx(shares[values > level].sum())
    half = values[::-1][np.searchsorted(np.cumsum(shares[::-1]), 0.5)]
    assert half_learnt(cheap, loss) == pytest.approx(half, rel=1e-6)
    assert half_learnt(whole, loss) == pytest.approx(half, rel=1e-6)


def test_a_matrix_is_factored_or_multiplied_by_to_the_same(whole, monkeypatch):
    op = on_host(operator(whole.kernel_train, whole, dict.fromkeys(whole.groups, 1.0)))
    factored = eigen.top(op, 4)[0]
    monkeypatch.setattr(eigen, "DENSE", 0)
    np.testing.assert_allclose(eigen.top(op, 4)[0], factored, rtol=1e-8)


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_stability(cheap, whole, groups, loss, batch_size):
    recipe = RECIPE.replace(loss=loss, batch_size=batch_size, **GROUPS[groups])
    found, expected = predict.stability(cheap, recipe), predict.stability(whole, recipe)
    for name in ("lambda_max", "h", "worst_batch_h", "largest_stable_rate"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-9), name


@pytest.mark.parametrize("groups", GROUPS)
def test_closed_form(cheap, groups):
    recipe = RECIPE.replace(**GROUPS[groups])
    found, expected = predict.spectral(cheap)(recipe), predict.dual(cheap)(recipe)
    for name in ("train_loss", "test_loss"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-9)


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_gradient_flow(cheap, whole, loss):
    """The package's answer on the expanded kernel."""
    recipe = RECIPE.replace(loss=loss, momentum=0.0, steps=12)
    found, expected = predict.gradient_flow(cheap)(recipe), predict.gradient_flow(whole)(recipe)
    for name in ("train_loss", "test_loss"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6)
    assert found.train_loss[-1] < 0.9 * found.train_loss[0]


def test_what_needs_a_matrix_is_refused_where_that_does_not_fit(monkeypatch, tangent):
    cheap = to_trace(tangent)
    alone = RECIPE.replace(**GROUPS["the head alone"])
    monkeypatch.setattr(memory, "SHARE", 2e4 / memory.psutil.virtual_memory().available)  # room for traces alone
    with pytest.raises(LinftError, match=r"the kernel needs about .* GiB \(all eigenvectors .*; use fewer images"):
        predict.spectral(cheap)(RECIPE)
    assert predict.spectral(cheap)(alone).diverged_at is None, "K ⊗ A needs none"
    assert predict.stability(cheap, RECIPE).lambda_max > 0 and spectrum(cheap, "cross_entropy", 5)


def test_forty_classes_and_a_hundred_images():
    """Written out for every pair of logits such a kernel would be 128 MB in float64."""
    n, c, rng = 100, 40, np.random.default_rng(0)

    def low(rows: int, rank: int) -> np.ndarray:
        factor = rng.normal(size=(rows, rank)) / np.arange(1, rank + 1)
        return factor @ factor.T / rank

    blocks = {g: jnp.asarray(low(n, 20)) for g in ("body", "head")}
    mixing = {g: jnp.asarray(a / np.trace(a)) for g, a in {"body": low(c, c), "head": np.eye(c)}.items()}
    nothing = {g: jnp.zeros((n, c)) for g in blocks}
    kernel, labels, logits = Kernel(blocks, "trace"), jnp.arange(n) % c, jnp.zeros((n, c))
    tangent = linft.Tangent(logits, logits, labels, labels, kernel, kernel, nothing, nothing,
                            dict.fromkeys(blocks, jnp.ones(())), mixing)  # fmt: skip
    recipe = Recipe(learning_rate=0.1, batch_size=50, steps=6)
    tracemalloc.start()
    of = spectrum(tangent, "cross_entropy", 3)
    edge, half = predict.stability(tangent, recipe), half_learnt(tangent, "cross_entropy")
    flow = predict.gradient_flow(tangent)(recipe)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e7
    assert edge.lambda_max > 0 and 0 <= half <= of.eigenvalues[0]
    assert flow.train_loss[-1] < flow.train_loss[0]
    product = sum(np.asarray(k) @ np.ones((n, c)) @ np.asarray(mixing[g]) for g, k in blocks.items())
    assert np.vdot(np.ones((n, c)), product) / (n * c) <= of.eigenvalues[0] * (1 + 1e-9)  # a Rayleigh quotient
