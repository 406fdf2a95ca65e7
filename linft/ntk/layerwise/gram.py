"""Products of the Jacobians of two blocks of images: one tile of the kernel, group by group.

On CPU the products are the BLAS's own, added up in place, and half of them where the two blocks are
one: XLA has no symmetric product. On an accelerator they are XLA's.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import get_blas_funcs

from linft.core.base import Outputs
from linft.ntk.layerwise import projection
from linft.ntk.rows import Rows

PIECE, TOGETHER = 2**13, 16
"""Terms that one product adds up on an accelerator, and how many products of the trace it computes at a time."""
GramTile = Any
"""An array of NumPy on CPU, of JAX elsewhere: [r k s k] or [r s]."""


Product = Callable[[Any, Any, bool, Any], Any]
"""As `product`."""


def tile(a: Rows, b: Rows, directions: Any, outputs: Outputs, dtype: Any, multiply: Product) -> dict[str, np.ndarray]:
    """Θ_g between two blocks: [r k s k] for full, [r s] for trace and pseudo; exactly symmetric where a is b.

    Args:
      a, b: rows of the two blocks.
      directions: E Eᵀ [k k] of the output directions: the identity, or what random signs / √c give.
      dtype: of the sums over parameters.
      multiply: on an accelerator, `product`, or what takes its place where devices divide the numbers.
    """
    groups = groups_of(a)
    compute = _on_host if jax.default_backend() == "cpu" else partial(_on_device, multiply)
    make = partial(compute, a, b, np.asarray(directions), outputs, np.dtype(dtype))
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by its image, later
        return {group: np.asarray(make(group)) for group in groups}


def variances(a: Rows, b: Rows, outputs: Outputs, k: int) -> dict[str, np.ndarray]:
    """The variance of every entry of `tile` that random projection leaves; 0 where gradients are exact."""
    found = {}
    for group in groups_of(a):
        n, m = _length(a, group), _length(b, group)
        total = np.zeros((n, k, m, k) if outputs == "full" else (n, m))
        for x, y in zip(a.sketched.get(group, []), b.sketched.get(group, []), strict=True):
            total += np.asarray(_variance(x, y, outputs == "full")) / (k**2 if outputs == "pseudo" else 1)
        found[group] = total
    return found


@partial(jax.jit, static_argnums=2)
def _variance(x: Any, y: Any, full: bool) -> Any:
    return projection.estimate(x, y, lambda x, y: product(x, y, full, x.dtype)).variance


def groups_of(rows: Rows) -> tuple[str, ...]:
    """The groups of which there are rows."""
    return tuple(dict.fromkeys((*rows.dense, *rows.factored, *rows.sketched, *rows.head)))


def _terms(a: Rows, b: Rows, group: str) -> Iterator[tuple[Any, Any]]:
    """Pairs [r k p], [s k p] whose products add up, and whose k is that of the outputs, or 1."""
    yield from zip(a.dense.get(group, []), b.dense.get(group, []), strict=True)
    yield from zip(a.sketched.get(group, []), b.sketched.get(group, []), strict=True)


def _on_host(a: Rows, b: Rows, directions: np.ndarray, outputs: Outputs, dtype: np.dtype, group: str) -> np.ndarray:
    k = len(directions)
    full = outputs == "full"
    n, m = _length(a, group), _length(b, group)
    out = np.zeros((n * k, m * k) if full else (n, m), dtype)
    same = a is b
    for x, y in _terms(a, b, group):
        size = x.shape[-1] if full else x.shape[1] * x.shape[2]  # the trace is one long product
        _add_product(out, _host(x, dtype).reshape(-1, size), None if same else _host(y, dtype).reshape(-1, size))
    by_logit = out.reshape(n, k, m, k) if full else out
    for (h, v), (h2, v2) in zip(a.factored.get(group, []), b.factored.get(group, []), strict=True):
        inner = np.matmul(_host(h, dtype).transpose(1, 0, 2), _host(h2, dtype).transpose(1, 2, 0))  # [o n m]
        pairs = np.asarray(v, dtype)[:, None] * np.asarray(v2, dtype)[None]  # [k l o]
        for i in range(k):
            by_logit[:, i] += (pairs[i] @ inner.reshape(len(inner), -1)).reshape(k, n, m).transpose(1, 2, 0)
    for phi, psi in zip(a.head.get(group, []), b.head.get(group, []), strict=True):
        inner = _host(phi, dtype) @ _host(psi, dtype).T
        if full:
            for i, j in np.argwhere(directions):
                by_logit[:, i, :, j] += directions[i, j] * inner
        else:
            out += np.trace(directions).astype(dtype) * inner
    if same:
        _mirror(out)
    if outputs == "pseudo":
        out /= k
    return by_logit


def transposed(block: GramTile) -> GramTile:
    """Θ(x', x) of Θ(x, x')."""
    return block.transpose(2, 3, 0, 1) if block.ndim == 4 else block.T


def _length(rows: Rows, group: str) -> int:
    held = (
        rows.dense.get(group),
        [h for h, _ in rows.factored.get(group, [])],
        rows.sketched.get(group),
        rows.head.get(group),
    )
    return len(next(arrays for arrays in held if arrays)[0])


def _host(array: Any, dtype: np.dtype) -> np.ndarray:
    return np.ascontiguousarray(array, dtype)


def _add_product(out: np.ndarray, x: np.ndarray, y: np.ndarray | None) -> None:
    """out += x yᵀ in place; without y the lower triangle of out += x xᵀ. BLAS has the transposes of rows."""
    if y is None:
        (multiply,) = get_blas_funcs(("syrk",), dtype=out.dtype)
        done = multiply(1.0, x.T, 1.0, out.T, trans=1, lower=0, overwrite_c=1)
    else:
        (multiply,) = get_blas_funcs(("gemm",), dtype=out.dtype)
        done = multiply(1.0, y.T, x.T, 1.0, out.T, trans_a=1, overwrite_c=1)
    assert np.shares_memory(done, out), "the product is not in place"


def _mirror(matrix: np.ndarray, step: int = 512) -> None:
    """Fill the upper triangle from the lower one, block by block."""
    for i in range(0, len(matrix), step):
        diagonal = matrix[i : i + step, i : i + step]
        upper = np.triu_indices(len(diagonal), 1)
        diagonal[upper] = diagonal.T[upper]
        matrix[i : i + step, i + step :] = matrix[i + step :, i : i + step].T


@partial(jax.jit, static_argnums=(2, 3))
def product(x: Any, y: Any, full: bool, dtype: Any) -> Any:
    """Σ_p x_nkp y_mlp, [n k m l], where it is full, else its trace over k = l, [n m]; x [n k p], y [m l p].

    Piece by piece, since accelerators add up the terms of a long product one after another, and small ones are lost.
    The pieces of the trace are small matrices, of which many have to be computed at a time.
    """
    size = x.shape[-1]
    length = min(size, PIECE if full else PIECE * TOGETHER)
    pieces, rest = divmod(size, length)

    def add(start: Any, length: int, total: Any) -> Any:
        a, b = (jax.lax.dynamic_slice_in_dim(rows, start, length, -1).astype(dtype) for rows in (x, y))
        if full:
            return total + jnp.einsum("nkp,mlp->nkml", a, b)
        together = math.gcd(length, TOGETHER)
        a, b = (rows.reshape(len(rows), -1, length // together) for rows in (a, b))
        return total + jnp.einsum("nkp,mkp->knm", a, b).sum(0)

    total = jnp.zeros((*x.shape[:2], *y.shape[:2]) if full else (len(x), len(y)), dtype)
    total = jax.lax.fori_loop(0, pieces, lambda i, total: add(i * length, length, total), total)
    return add(pieces * length, rest, total) if rest else total


def _on_device(
    multiply: Product, a: Rows, b: Rows, directions: np.ndarray, outputs: Outputs, dtype: np.dtype, group: str
) -> Any:
    full, parts = outputs == "full", []
    parts += [multiply(x, y, full, dtype) for x, y in _terms(a, b, group)]
    for (h, v), (h2, v2) in zip(a.factored.get(group, []), b.factored.get(group, []), strict=True):
        inner = jnp.einsum("noi,moi->onm", h, h2)
        parts.append(jnp.einsum("ko,lo,onm->nkml", v, v2, inner))
    for phi, psi in zip(a.head.get(group, []), b.head.get(group, []), strict=True):
        inner = phi @ psi.T
        parts.append(jnp.einsum("nm,kl->nkml", inner, directions) if full else inner * np.trace(directions))
    out = sum(parts[1:], start=parts[0]).astype(dtype)
    if a is b:
        out = (out + transposed(out)) / 2
    return out / len(directions) if outputs == "pseudo" else out
