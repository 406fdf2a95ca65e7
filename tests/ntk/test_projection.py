"""Sketched gradients: unbiased, of a known error, the same for every batch; exact where they are small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linft
from linft.core.errors import LinftError
from linft.ntk.layerwise import projection

SIZE, K = 120, 48


estimate = jax.jit(projection.estimate, static_argnums=2)


def inner(a, b):
    """Sums of inner products of every pair of gradients: [n o m o]."""
    return jnp.tensordot(a, b, (2, 2), precision="highest")


def traced(a, b):
    """The same, over equal outputs alone: [n m]."""
    return jnp.einsum("nop,mop->nm", a, b, precision="highest")


def drawn(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), shape)


@pytest.fixture(scope="module")
def gradients() -> jax.Array:
    """Of the second of two convolutions on real digits: [n c size]."""
    images = linft.load_task("digits").subset(6, 6, seed=0).x_train
    x = jnp.asarray(images, jnp.float32).reshape(6, *images.shape[1:3], -1) / 255
    rng = np.random.default_rng(0)
    first, second, head = (
        jnp.asarray(rng.normal(size=shape, scale=np.prod(shape[:-1]) ** -0.5), jnp.float32)
        for shape in ((3, 3, x.shape[-1], 16), (3, 3, 16, 36), (36, 4))
    )

    def logits(kernel):
        hidden = x
        for weights in (first, kernel):
            layout = ("NHWC", "HWIO", "NHWC")
            hidden = jax.lax.conv_general_dilated(hidden, weights, (1, 1), "SAME", dimension_numbers=layout)
            hidden = jax.nn.relu(hidden)
        return hidden.mean((1, 2)) @ head

    return jax.jit(jax.jacrev(logits))(second).reshape(6, 4, -1)


@pytest.mark.parametrize("kind", ["drawn", "one row of the parameter", "equal"])
def test_unbiased(kind):
    g = {
        "drawn": drawn(3, 2, SIZE),
        "one row of the parameter": drawn(3, 2, SIZE) * (jnp.arange(SIZE) < 12)[None, None],  # all of it in one place
        "equal": jnp.ones((3, 2, SIZE)),
    }[kind]
    sketches = (projection.sketch(g, "kernel", K, seed) for seed in range(200))
    blocks = jnp.stack([inner(rows, rows) for rows in sketches])
    of_mean = blocks.std(0, ddof=1) / np.sqrt(len(blocks))
    assert float(of_mean.max()) > 0
    assert bool((jnp.abs(blocks.mean(0) - inner(g, g)) <= 4 * of_mean + 1e-4).all())


def test_error_shrinks_as_dimensions_grow(gradients):
    """The relative error of a gradient's squared norm is about √(2/k)."""
    truth = jnp.sum(gradients**2, 2)
    for k in (128, 512):
        sketches = (projection.sketch(gradients, "kernel", k, seed) for seed in range(8))
        error = float(jnp.sqrt(jnp.mean(jnp.stack([jnp.sum(rows**2, 2) / truth - 1 for rows in sketches]) ** 2)))
        assert 0.6 < error / np.sqrt(2 / k) < 1.6, k


@pytest.mark.parametrize("product", [inner, traced])
def test_standard_error_is_that_of_the_block(gradients, product):
    truth, errors, variances = product(gradients, gradients[:3]), [], []
    for seed in range(8):
        rows = projection.sketch(gradients, "kernel", 512, seed)
        block, variance = estimate(rows, rows[:3], product)
        np.testing.assert_allclose(block, product(rows, rows[:3]), atol=1e-5 * float(jnp.abs(block).max()))
        errors.append(block - truth)
        variances.append(variance)
    ratio = float(jnp.sqrt(jnp.mean(jnp.stack(errors) ** 2) / jnp.mean(jnp.stack(variances))))
    assert 0.5 < ratio < 2


def test_standard_error_is_the_spread_of_repeats():
    """Against numpy's, from the repeats one by one."""
    a, b = (projection.sketch(g, "kernel", K) for g in (drawn(3, 2, SIZE), drawn(2, 2, SIZE)))
    width = a.shape[2] // projection.REPEATS
    parts = [slice(r * width, (r + 1) * width) for r in range(projection.REPEATS)]
    repeats = np.stack([projection.REPEATS * inner(a[..., part], b[..., part]) for part in parts])
    expected = repeats.std(0, ddof=1) / np.sqrt(len(repeats))
    np.testing.assert_allclose(jnp.sqrt(estimate(a, b, inner).variance), expected, rtol=1e-4)


@pytest.mark.parametrize("size", [K - 1, K])
def test_small_gradients_stay_as_they_are(size):
    g = drawn(3, 2, size)
    np.testing.assert_array_equal(projection.sketch(g, "kernel", K), g)


@pytest.mark.parametrize(("size", "k"), [(K + 1, K), (SIZE, 16), (2**10, K)])
def test_length(size, k):
    """Never more than asked, and whole rows and a rest of any length find their place."""
    units, g = jnp.eye(size), drawn(2, size)
    rows = projection.sketch(jnp.concatenate([units, g])[:, None], "kernel", k)
    assert rows.shape[2] == projection.length(size, k) <= k
    every = rows[:size, 0]  # Φᵀ
    np.testing.assert_allclose(jnp.count_nonzero(every, 1), projection.REPEATS)
    np.testing.assert_allclose(jnp.sum(every**2, 1), 1, rtol=1e-5)
    np.testing.assert_allclose(rows[size:, 0], jnp.matmul(g, every, precision="highest"), atol=1e-4)


def test_same_for_every_batch_and_call():
    g = drawn(5, 2, SIZE)
    whole = projection.sketch(g, "kernel", K, 3)
    np.testing.assert_array_equal(whole, projection.sketch(g, "kernel", K, 3))
    compiled = jax.jit(lambda g: projection.sketch(g, "kernel", K, 3))
    np.testing.assert_allclose(compiled(g), whole, atol=1e-5)
    np.testing.assert_allclose(projection.sketch(g[3:, :1], "kernel", K, 3), whole[3:, :1], atol=1e-5)


def test_signs_are_always_the_same_ones():
    """Kept sketches stay usable: a change of these numbers makes them void."""
    rows = projection.sketch(jnp.arange(20.0)[None, None], "stage1/conv/kernel", 16, 7)
    expected = [-58, 78, -48, 2, -32, 66, -40, 12, -70, -12, -122, 50, -46, -20, -96, -36]
    assert (rows[0, 0] * 4).tolist() == expected


def test_other_seeds_and_paths_have_other_signs():
    g = drawn(1, 1, SIZE)
    sketches = [projection.sketch(g, *which) for which in (("a", K, 0), ("a", K, 1), ("b", K, 0))]
    for i in range(3):
        assert not np.allclose(sketches[i], sketches[i - 1])


def test_gram_is_symmetric_and_positive():
    rows = projection.sketch(drawn(24, 1, SIZE), "kernel", 16)  # of lower rank than there are rows
    block = np.asarray(inner(rows, rows)).reshape(24, 24)
    np.testing.assert_allclose(block, block.T, atol=1e-4)
    assert np.linalg.eigvalsh(block.astype(np.float64)).min() > -1e-4


def test_double_precision(x64):
    g = drawn(2, 1, SIZE)
    assert g.dtype == jnp.float64
    rows = projection.sketch(g, "kernel", K)
    assert rows.dtype == estimate(rows, rows, inner).variance.dtype == jnp.float64
    single = projection.sketch(g.astype(jnp.float32), "kernel", K)
    np.testing.assert_allclose(single, rows, atol=1e-4)  # the same signs


@pytest.mark.parametrize(
    ("k", "seed", "message"), [(15, 0, "16 or more"), (-1, 0, "16 or more"), (64, -1, "seed is -1; give 0 or more")]
)
def test_wrong_numbers_are_refused(k, seed, message):
    with pytest.raises(LinftError, match=message):
        projection.check(k, seed)
    projection.check(16, 0)
