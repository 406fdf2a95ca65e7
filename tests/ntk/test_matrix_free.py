"""Products with the kernel, and what follows from them alone, held against the kernel itself and NumPy."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import make
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from linft.core import trees
from linft.core.base import Model
from linft.core.errors import LinftError
from linft.ntk.empirical import empirical_ntk
from linft.ntk.matrix_free.krylov import solve, spectral_measure, time_constants, top_eigenvalues, trace
from linft.ntk.matrix_free.nystrom import nystrom
from linft.ntk.matrix_free.operator import kernel_operator

CLASSES = 10
RIDGE = 1.0


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.GroupNorm(num_groups=2, name="norm")(nn.Conv(4, (3, 3), strides=2, name="stem")(x))
        return nn.Dense(CLASSES, name="head")(nn.tanh(x).reshape(len(x), -1))


class Case(NamedTuple):
    """A network in float64, real digits, and their kernels by explicit Jacobians."""

    model: Model
    train: jax.Array
    test: jax.Array
    jacobians: dict[str, np.ndarray]
    """Of the training images' logits, by parameter path, [n·c size]."""
    square: np.ndarray
    """Train × train."""
    rectangle: np.ndarray
    """Test × train."""
    y: np.ndarray

    @property
    def operator(self) -> LinearOperator:
        return kernel_operator(self.model, self.train)


def cast(model: Model, dtype: str) -> Model:
    return model.replace(params=jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), model.params))


@pytest.fixture(scope="module")
def built(digits) -> Case:
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    model = cast(make(Network()), "float64")
    train, test = (jnp.asarray(model.preprocess(x), "float64") for x in (digits.x_train[:11], digits.x_test[:7]))
    tree = jax.jit(jax.jacobian(lambda params: model.apply(params, jnp.concatenate([train, test]))))(model.params)
    paths = {
        trees.path_of(p): np.asarray(leaf).reshape(180, -1) for p, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    jacobians, others = ({path: j[rows] for path, j in paths.items()} for rows in (slice(110), slice(110, None)))
    square, rectangle = (sum(a[path] @ jacobians[path].T for path in paths) for a in (jacobians, others))
    y = np.eye(CLASSES)[digits.y_train[:11]] - np.asarray(jax.jit(model.apply)(model.params, train))
    jax.config.update("jax_enable_x64", before)
    return Case(model, train, test, jacobians, square, rectangle, y)


@pytest.fixture
def case(built, x64) -> Case:
    return built


def assert_close(got: np.ndarray, expected: np.ndarray, tolerance: float = 1e-10) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.linalg.norm(expected))


def test_products_are_those_of_the_kernel(case):
    """Single vectors, many, and the transpose, in batches of which the last is padded."""
    rng = np.random.default_rng(0)
    square = kernel_operator(case.model, case.train, batch_size=4)
    v = rng.normal(size=(len(case.square), 2))
    assert_close(square @ v, case.square @ v)
    rectangle = kernel_operator(case.model, case.test, case.train, batch_size=4)
    assert rectangle.shape == case.rectangle.shape and rectangle.dtype == np.float64
    assert_close(rectangle @ v[:, 0], case.rectangle @ v[:, 0])
    u = rng.normal(size=len(case.rectangle))
    assert_close(rectangle.T @ u, case.rectangle.T @ u)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_change_nothing(case, batch_size):
    v = np.random.default_rng(0).normal(size=len(case.square))
    assert_close(kernel_operator(case.model, case.train, batch_size=batch_size) @ v, case.square @ v)


def test_the_operator_is_the_kernel_reshaped(case):
    kernel = empirical_ntk(case.model, case.test, groups=["head"])
    operator = kernel_operator(case.model, case.test, groups=["head"])
    assert_close(operator @ np.eye(len(case.rectangle)), np.asarray(kernel.total()).reshape(operator.shape))


def test_groups_restrict_and_weights_weigh(case):
    """Layer groups, and a partition into kernels and vectors."""
    v = np.random.default_rng(0).normal(size=len(case.square))
    parts = {path: j @ (j.T @ v) for path, j in case.jacobians.items()}
    some = kernel_operator(case.model, case.train, groups=["norm", "head"])
    assert_close(some @ v, sum(part for path, part in parts.items() if not path.startswith("stem")))
    split = trees.split_vectors(case.model.stages)
    weights = {"stem": 0.5, "stem/vectors": 0.0, "norm/vectors": 2.0, "head": 3.0, "head/vectors": 0.1}
    weighted = kernel_operator(case.model, case.train, groups=split, weights=weights)
    expected = sum(
        weights[path.split("/")[0] + ("" if path.endswith("kernel") else trees.VECTORS)] * part
        for path, part in parts.items()
    )
    assert_close(weighted @ v, expected)


class Opaque(nn.Module):
    """A network whose first layer cannot be differentiated."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(3, name="stem")(x.mean((1, 2)))
        x = jax.pure_callback(np.tanh, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
        return nn.Dense(2, name="head")(x)


def test_only_the_asked_groups_are_differentiated():
    """Neither pass goes through what lies below the first of them."""
    model, x = make(Opaque()), jnp.ones((2, 8, 8, 1))
    features = np.asarray(model.features(model.params, x))
    expected = np.kron(features @ features.T + 1, np.eye(2))
    assert_close(kernel_operator(model, x, groups=["head"]) @ np.eye(4), expected, 1e-5)
    with pytest.raises(ValueError, match="callback"):
        kernel_operator(model, x) @ np.ones(4)


def test_largest_eigenvalues(case):
    values, vectors = top_eigenvalues(case.operator, 5)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(case.square)[::-1][:5], rtol=1e-10)
    assert_close(case.square @ vectors, vectors * values, 1e-8)
    assert_close(vectors.T @ vectors, np.eye(5))


def test_eigenvalues_that_are_many_times_there(built):
    """Θ ⊗ I has each of them three times; and an operator of low rank has few beside 0."""
    values, vectors = np.linalg.eigh(built.square)
    found, _ = top_eigenvalues(aslinearoperator(np.kron(built.square, np.eye(3))), 12)
    np.testing.assert_allclose(found, np.repeat(values[::-1][:4], 3), rtol=1e-8)
    low = vectors[:, -5:] * values[-5:] @ vectors[:, -5:].T
    found, _ = top_eigenvalues(aslinearoperator(low), 20)
    np.testing.assert_allclose(found, np.r_[values[::-1][:5], np.zeros(15)], rtol=1e-8, atol=1e-8 * values[-1])


@pytest.mark.parametrize("k", [1, 60, 110])
def test_all_eigenvalues_where_the_krylov_space_would_be_the_whole(built, k):
    values, vectors = top_eigenvalues(aslinearoperator(built.square), k)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(built.square)[::-1][:k], rtol=1e-8, atol=1e-9 * values[0])
    assert_close(built.square @ vectors, vectors * values, 1e-8)


def test_a_vector_over_eigenvalues(built):
    """All of them at as many steps; right moments, and bounds on what lies above each point, before that."""
    y = built.y.reshape(-1)
    values, vectors = np.linalg.eigh(built.square)
    shares = (vectors.T @ y) ** 2 / (y @ y)
    theta = aslinearoperator(built.square)
    points, found = spectral_measure(theta, y, 1000)
    for level in (0.1, 1.0, 10.0):
        np.testing.assert_allclose(found[points > level].sum(), shares[values > level].sum(), atol=1e-6)
    points, found = spectral_measure(theta, y, 12)
    assert len(points) == 12 and found.sum() == pytest.approx(1)
    for power in range(1, 4):
        np.testing.assert_allclose(found @ points**power, shares @ values**power, rtol=1e-8)
    above = np.array([shares[values > point].sum() for point in points])
    assert (np.cumsum(found) - found <= above + 1e-9).all() and (above <= np.cumsum(found) + 1e-9).all()
    none, nothing = spectral_measure(theta, 0 * y, 12)
    assert none.tolist() == nothing.tolist() == [0.0]


def test_eigenvalues_of_a_kernel_of_zeros(case):
    """Below a head of zeros nothing moves the logits."""
    model = case.model.replace(
        params={**case.model.params, "head": jax.tree.map(jnp.zeros_like, case.model.params["head"])}
    )
    operator = kernel_operator(model, case.train, groups=["stem", "norm"])
    values, vectors = top_eigenvalues(operator, 3)
    np.testing.assert_array_equal(values, np.zeros(3))
    assert_close(vectors.T @ vectors, np.eye(3))
    assert nystrom(operator, 4).values.shape == (0,)
    assert_close(solve(operator, case.y, 2.0, approximation=nystrom(operator, 4)).x, case.y / 2)


def test_time_constants_are_those_of_gradient_descent(case):
    """Along each eigenvector the residual of full-batch gradient descent is 1/e after that many steps."""
    n = len(case.train)
    values, vectors = np.linalg.eigh(case.square)
    rate = 0.01 * n / values[-1]
    times = time_constants(values[-3:], rate, n)
    for vector, time in zip(vectors.T[-3:], times, strict=True):
        residual = vector.copy()
        for _ in range(round(time)):
            residual -= rate / n * (case.square @ residual)
        np.testing.assert_allclose(vector @ residual, np.exp(-1), rtol=0.02)


@pytest.mark.parametrize("rank", [None, 20])
def test_solutions_are_dense_solutions(case, rank):
    approximation = None if rank is None else nystrom(case.operator, rank)
    shifted, y = case.square + RIDGE * np.eye(len(case.square)), case.y.reshape(-1)
    expected = np.linalg.solve(shifted, y)
    found = solve(case.operator, case.y, RIDGE, approximation=approximation, tolerance=1e-10)
    assert found.x.shape == case.y.shape
    assert_close(found.x.reshape(-1), expected, 1e-8)
    np.testing.assert_allclose(found.quadratic_form, y @ expected, rtol=1e-10)


@pytest.mark.parametrize("rank", [None, 20])
def test_an_early_solution_knows_its_error(case, rank):
    """Its residual is the true one, and its quadratic form falls short by ‖r‖²/ρ at most."""
    approximation = None if rank is None else nystrom(case.operator, rank)
    shifted, y = case.square + RIDGE * np.eye(len(case.square)), case.y.reshape(-1)
    found = solve(case.operator, case.y, RIDGE, approximation=approximation, tolerance=0.1)
    r = y - shifted @ found.x.reshape(-1)
    np.testing.assert_allclose(found.residual, np.linalg.norm(r) / np.linalg.norm(y), rtol=1e-8)
    assert 1e-4 < found.residual < 0.1
    short = y @ np.linalg.solve(shifted, y) - found.quadratic_form
    assert 0 < short <= r @ r / RIDGE
    np.testing.assert_allclose(short, r @ np.linalg.solve(shifted, r), rtol=1e-6)


def test_the_preconditioner_saves_steps(built):
    """The more, the higher its rank, on the kernel of real digits."""
    theta = aslinearoperator(built.square)
    bare = solve(theta, built.y, RIDGE, tolerance=1e-6).steps
    low, high = (
        solve(theta, built.y, RIDGE, approximation=nystrom(theta, rank), tolerance=1e-6).steps for rank in (20, 60)
    )
    assert high < low < 0.8 * bare


def test_nystrom_at_full_rank_is_the_operator(built):
    whole = nystrom(aslinearoperator(built.square), len(built.square))
    assert_close(whole.vectors * whole.values @ whole.vectors.T, built.square, 1e-8)
    shifted = built.square + RIDGE * np.eye(len(built.square))
    inverse = whole.preconditioner(RIDGE) @ np.eye(len(shifted))
    assert_close(inverse @ shifted, (whole.values[-1] + RIDGE) * np.eye(len(shifted)), 1e-6)


def test_nystrom_is_below_the_operator(built):
    """Θ less its approximation is positive semidefinite, and so its eigenvalues are at most those of Θ."""
    part = nystrom(aslinearoperator(built.square), 20, seed=1)
    rest = built.square - part.vectors * part.values @ part.vectors.T
    largest = np.linalg.eigvalsh(built.square)[::-1]
    assert np.linalg.eigvalsh(rest)[0] > -1e-9 * largest[0]
    assert (part.values <= largest[:20] * (1 + 1e-9)).all() and part.values[0] > 0.8 * largest[0]
    assert_close(part.vectors.T @ part.vectors, np.eye(20))


def test_trace(case):
    """Within its standard error, which is that of random signs."""
    estimate, error = trace(case.operator, 64, seed=3)
    expected = np.sqrt(2 * (np.sum(case.square**2) - np.sum(np.diag(case.square) ** 2)) / 64)
    np.testing.assert_allclose(error, expected, rtol=0.4)
    assert 0 < abs(estimate - np.trace(case.square)) < 4 * error


def test_the_trace_of_a_diagonal_is_exact():
    assert trace(aslinearoperator(np.diag([1.0, -2.0, 4.0])), 2) == (3.0, 0.0)


def test_in_float32(built):
    """Products, eigenvalues and solutions at its precision; more is refused, not pretended."""
    model, x = cast(built.model, "float32"), jnp.asarray(built.train, "float32")
    operator = kernel_operator(model, x)
    assert operator.dtype == np.float32
    v = np.random.default_rng(0).normal(size=len(built.square))
    assert_close(operator @ v, built.square @ v, 1e-5)
    np.testing.assert_allclose(top_eigenvalues(operator, 3)[0], np.linalg.eigvalsh(built.square)[:-4:-1], rtol=1e-5)
    shifted = built.square + RIDGE * np.eye(len(v))
    found = solve(operator, built.y, RIDGE, approximation=nystrom(operator, 40))
    assert_close(found.x.reshape(-1), np.linalg.solve(shifted, built.y.reshape(-1)), 1e-3)
    with pytest.raises(LinftError, match="float64"):
        solve(operator, built.y, 1e-3, approximation=nystrom(operator, 110), tolerance=1e-9)


def test_progress_is_told(case):
    told = []
    approximation = nystrom(case.operator, 3, progress=lambda *at: told.append(at))
    found = solve(case.operator, case.y, 100.0, approximation=approximation, progress=lambda *at: told.append(at))
    trace(case.operator, 2, progress=lambda *at: told.append(at))
    steps = [(i + 1, 500) for i in range(found.steps)]
    assert told == [(1, 3), (2, 3), (3, 3), *steps, (1, 2), (2, 2)] and steps


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"groups": ["neck"]}, "no layer group neck"),
        ({"groups": []}, "none given"),
        ({"weights": {"stem": 1.0}}, "one for each of head, norm, stem"),
        ({"groups": ["head"], "weights": {"head": -1.0}}, "weight of head is -1.0"),
        ({"groups": ["head"], "weights": {"head": np.nan}}, "weight of head is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"x2": jnp.zeros((0, 8, 8, 1))}, "n ≥ 1"),
        ({"x2": jnp.ones((2, 8, 8, 1)).at[1, 0, 0, 0].set(jnp.nan)}, "image 1 has values that are not finite"),
    ],
)
def test_operators_refused(options, reason):
    with pytest.raises(LinftError, match=reason):
        kernel_operator(make(Network()), jnp.ones((2, 8, 8, 1)), **options)


def test_weights_that_are_not_finite_are_refused():
    model = make(Network())
    broken = model.replace(params={**model.params, "head": jax.tree.map(lambda v: v * np.inf, model.params["head"])})
    with pytest.raises(LinftError, match="weights of Network are not all finite"):
        kernel_operator(broken, jnp.ones((2, 8, 8, 1)))


def test_products_that_are_not_finite_are_refused(case):
    v = np.ones(len(case.square))
    with pytest.raises(LinftError, match="a vector"):
        case.operator @ np.where(np.arange(len(v)) == 7, np.nan, v)
    huge = case.train.at[4].multiply(1e300)
    with pytest.raises(LinftError, match="product with the kernel is not finite at image"):
        kernel_operator(case.model, huge) @ (1e300 * v)


MATRIX = aslinearoperator(np.diag([3.0, 2.0, 1.0]))
SKEW = aslinearoperator(np.array([[1.0, 5.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
NEGATIVE = aslinearoperator(np.diag([3.0, 2.0, -1.0]))
WIDE = aslinearoperator(np.ones((2, 3)))
Y = np.ones(3)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: top_eigenvalues(MATRIX, 4), "choose 1 to 3"),
        (lambda: top_eigenvalues(SKEW, 1), "not symmetric"),
        (lambda: top_eigenvalues(WIDE, 1), "2 × 3"),
        (lambda: time_constants(Y, 0.0, 3), "learning rate is 0.0"),
        (lambda: solve(WIDE, Y, 1.0), "2 × 3"),
        (lambda: solve(MATRIX, np.ones(4), 1.0), "give 3 finite numbers"),
        (lambda: solve(MATRIX, Y * np.nan, 1.0), "give 3 finite numbers"),
        (lambda: solve(MATRIX, Y, 0.0), "ridge is 0.0"),
        (lambda: solve(MATRIX, Y, 1.0, tolerance=0.0), "tolerance is 0.0"),
        (lambda: solve(MATRIX, Y, 1.0, max_steps=0), "max_steps 0"),
        (lambda: solve(MATRIX, Y, 0.1, max_steps=1), "after 1 steps .* allow more steps"),
        (lambda: solve(MATRIX, Y, 1.0, approximation=nystrom(aslinearoperator(np.eye(2)), 1)), "2 rows"),
        (lambda: nystrom(MATRIX, 0), "rank is 0; choose 1 to 3"),
        (lambda: nystrom(MATRIX, 4), "rank is 4; choose 1 to 3"),
        (lambda: nystrom(NEGATIVE, 3), "not positive semidefinite"),
        (lambda: nystrom(WIDE, 1), "2 × 3"),
        (lambda: trace(MATRIX, 1), "draws is 1"),
        (lambda: trace(WIDE), "2 × 3"),
    ],
)
def test_refused(call, reason):
    with pytest.raises(LinftError, match=reason):
        call()
