"""The kernel as an operator: Θv = J (Jᵀv), one backward and one forward pass, where Θ is too large to hold."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.sparse.linalg import LinearOperator

from linft.core import trees
from linft.core.base import Model
from linft.core.errors import LinftError, no_derivative
from linft.core.forward_pass import equal_batches, equal_size
from linft.core.trees import Groups, Tree
from linft.ntk.empirical import checked, labels_of


def kernel_operator(
    model: Model,
    x1: Float[Array, "n h w ch"],
    x2: Float[Array, "m h w ch"] | None = None,
    *,
    groups: Groups | Sequence[str] | None = None,
    weights: Mapping[str, float] | None = None,
    batch_size: int = 32,
) -> LinearOperator:
    """The empirical kernel Θ = Σ_g μ_g J_g(x1) J_g(x2)ᵀ as an operator on NumPy vectors, never formed.

    Shape [n·c, m·c], an image's logits side by side: `empirical_ntk(…).total(μ)` reshaped. A product
    takes one vector-Jacobian product over x2 and one Jacobian-vector product over x1, a batch at a
    time: memory for one batch and for the parameters twice, whatever n and m are. Its number type
    is that of the weights. `krylov` has eigenvalues, solutions and the trace.

    Args:
      model: its batch norm is frozen; scale and bias are weights like any other.
      x1, x2: preprocessed images; without x2 the operator is x1's own, symmetric, positive semidefinite.
      groups: as in `empirical_ntk`; only their parameters are differentiated, and backward passes stop
        at the first of them.
      weights: μ_g ≥ 0 of every group; 1 by default.
      batch_size: most images in memory at once; it changes memory and speed, not values.

    Raises:
      LinftError: bad images, groups or weights; in a product, a vector or a result that is not finite.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, linft
      >>> model = linft.models.create("cifar_resnet8", 3, jax.random.key(0), width=4)
      >>> theta = kernel_operator(model, jnp.ones((2, 32, 32, 3)), groups=["head"])
      >>> theta.shape, bool((theta @ np.ones(6) > 0).all())
      ((6, 6), True)
    """
    if batch_size < 1:
        raise LinftError(f"batch_size is {batch_size}; it must be 1 or more")
    x1, x2 = checked(model, x1), None if x2 is None else checked(model, x2)
    labels = labels_of(model, groups)
    scales = _scales(labels, weights)
    at = jax.tree_util.tree_map_with_path
    moving = at(lambda p, leaf: leaf if trees.path_of(p) in labels else None, model.params)
    still = at(lambda p, leaf: None if trees.path_of(p) in labels else leaf, model.params)
    scale = at(lambda p, leaf: jnp.asarray(scales[labels[trees.path_of(p)]], leaf.dtype), moving)
    zeros = jax.tree.map(jnp.zeros_like, moving)
    pull, push = _products(model.forward)
    classes = model.num_classes

    def product(rows: list[Array], columns: list[Array], n: int, m: int) -> Callable[[np.ndarray], np.ndarray]:
        """v [m·c] -> J(rows) diag(μ) J(columns)ᵀ v [n·c]."""

        def times(v: np.ndarray) -> np.ndarray:
            if not np.isfinite(v).all():
                raise LinftError("a vector that the kernel is to multiply has values that are not finite")
            padded = np.zeros((len(columns) * len(columns[0]), classes), x1.dtype)
            padded[:m] = v.reshape(m, classes)
            with jax.default_matmul_precision("highest"):
                moved = zeros
                for x, cotangent in zip(columns, np.split(padded, len(columns)), strict=True):
                    moved = pull(moving, still, model.batch_stats, x, cotangent, moved)
                parts = [push(moving, still, model.batch_stats, x, moved, scale) for x in rows]
            out = np.concatenate(jax.device_get(parts))[:n].reshape(-1)
            if not np.isfinite(out).all():
                raise no_derivative("the product with the kernel", culprit(columns, m, int(np.isfinite(out).argmin())))
            return out

        return times

    def culprit(columns: list[Array], m: int, entry: int) -> int:
        """The image whose own gradient is not finite, since it leaves no entry of a product so; or that of an entry."""
        ones = np.ones((1, classes), x1.dtype)
        for i, image in enumerate(x for batch in columns for x in batch):
            if i < m and not trees.finite(pull(moving, still, model.batch_stats, image[None], ones, zeros)):
                return i
        return entry // classes

    n, m = len(x1), len(x1 if x2 is None else x2)
    rows = _batches(x1, batch_size)
    columns = rows if x2 is None else _batches(x2, batch_size)
    there, back = product(rows, columns, n, m), product(columns, rows, m, n)
    shape = (n * classes, m * classes)
    return LinearOperator(shape, matvec=there, rmatvec=back, dtype=np.dtype(x1.dtype))  # pyright: ignore


def side(operator: LinearOperator) -> int:
    """Rows of a square operator; others are refused."""
    rows, columns = operator.shape
    if rows != columns:
        raise LinftError(f"the operator is {rows} × {columns}; give a square one, of one set of images")
    return rows


def precision(operator: LinearOperator) -> np.dtype:
    """The floating-point type that an operator's products are computed in."""
    return np.result_type(operator.dtype, np.float32)  # pyright: ignore


def _scales(labels: Mapping[str, str], weights: Mapping[str, float] | None) -> dict[str, float]:
    """μ_g of every group asked for."""
    groups = dict.fromkeys(labels.values(), 1.0)
    if weights is None:
        return groups
    if set(weights) != set(groups):
        raise LinftError(
            f"the weights are of {', '.join(weights) or 'no group'}; give one for each of {', '.join(groups)}"
        )
    for group, weight in weights.items():
        if not 0 <= weight < np.inf:
            raise LinftError(f"the weight of {group} is {weight}; it must be finite and 0 or more")
    return dict(weights)


def _batches(x: Array, most: int) -> list[Array]:
    """Equal batches of images, the last padded."""
    return [batch for batch, _ in equal_batches(x, equal_size(len(x), most))]


@lru_cache(maxsize=16)
def _products(forward: Callable) -> tuple[Callable, Callable]:
    """Compiled (total + Jᵀ cotangent, J (μ · tangent)) of one batch, in the moving parameters only.

    Parameters come as two trees with None where a leaf is in the other one.
    """

    def logits(still: Tree, batch_stats: Tree, x: Array) -> Callable[[Tree], Array]:
        def of(moving: Tree) -> Array:
            params = jax.tree.map(lambda a, b: b if a is None else a, moving, still, is_leaf=lambda leaf: leaf is None)
            return forward(params, batch_stats, x)[0]

        return of

    @jax.jit
    def pull(moving: Tree, still: Tree, batch_stats: Tree, x: Array, cotangent: Array, total: Tree) -> Tree:
        gradient = jax.vjp(logits(still, batch_stats, x), moving)[1](cotangent)[0]
        return jax.tree.map(jnp.add, total, gradient)

    @jax.jit
    def push(moving: Tree, still: Tree, batch_stats: Tree, x: Array, tangent: Tree, scale: Tree) -> Array:
        scaled = jax.tree.map(jnp.multiply, scale, tangent)
        return jax.jvp(logits(still, batch_stats, x), (moving,), (scaled,))[1]

    return pull, push
