"""Random projection: a large parameter's per-example gradients, sketched to a few thousand numbers each.

A gradient g of `size` numbers is laid out in rows of w numbers and becomes

    Φ g = R^-½ (S ⊗ I_w) D g,    D and S [R rows] independent random signs,

a sparse Johnson-Lindenstrauss transform (Kane and Nelson 2014, "Sparser Johnson-Lindenstrauss transforms")
with R entries a column, in the form that takes one pass over g and one matrix product of R lines.
The mean of ΦᵀΦ is the identity, so an inner product ⟨Φ g, Φ h⟩ is unbiased. Its variance is about
(‖g‖² ‖h‖² + ⟨g, h⟩²) / k,  k = R w,  as that of dense random signs. The buckets, numbers i mod w, are fixed:
the signs alone make it unbiased, and w without a factor in common with the parameter's shape strews
every row, column and tap over all of them.

Each line of S is a repeat: given D, the R repeats are independent and unbiased, so their spread tells
the standard error of every entry of the kernel.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linft.core.errors import LinftError

DIMENSIONS = 10_000
"""k of Deshpande and others 2021, section 3.2, for the gradients of large layers."""
REPEATS = 16
"""R: a standard error from 16 repeats is itself known to about 18 %, 1/√(2(R − 1))."""


class KernelEstimate(NamedTuple):
    """A block of the kernel from sketches, and the variance of each of its entries."""

    block: Array
    variance: Array
    """The standard error squared; those of different parameters add up, their signs being independent."""


def check(k: int, seed: int) -> None:
    """Refuse fewer dimensions than repeats, and a negative seed.

    Raises:
      LinftError: k < 16, or seed < 0.
    """
    if k < REPEATS:
        raise LinftError(f"projection is {k} dimensions; give {REPEATS} or more, such as {DIMENSIONS}, or None")
    if seed < 0:
        raise LinftError(f"the projection's seed is {seed}; give 0 or more")


def length(size: int, k: int = DIMENSIONS) -> int:
    """How many numbers a gradient of `size` numbers becomes: itself up to k, else R w, at most k.

    w is the largest width up to k/R without a factor in common with `size`, hence with any axis of the parameter.

    Example:
      >>> length(9000), length(3 * 3 * 512 * 512)
      (9000, 10000)
    """
    if size <= k:
        return size
    return REPEATS * next(w for w in range(k // REPEATS, 0, -1) if math.gcd(w, size) == 1)


def sketch(
    gradients: Float[Array, "b o size"], path: str, k: int = DIMENSIONS, seed: int = 0
) -> Float[Array, "b o length"]:
    """Φ g of every gradient g of one parameter; the gradients themselves where size ≤ k.

    Φ depends on path, size, k and seed alone: it is the same for every batch and on every device, and
    independent between paths.

    Args:
      gradients: of b examples and o output directions.
      path: the parameter's path.
      k: most numbers that are kept of a gradient.
      seed: of the random signs.

    Example:
      >>> import jax.numpy as jnp
      >>> sketch(jnp.ones((2, 3, 100)), "stage1/conv/kernel", k=48).shape
      (2, 3, 48)
    """
    if gradients.shape[2] <= k:
        return gradients
    key = jnp.asarray(np.random.SeedSequence([seed, *path.encode()]).generate_state(2))
    return _sketch(gradients, jax.random.wrap_key_data(key, impl="threefry2x32"), k)  # the same on every device


@partial(jax.jit, static_argnums=2)
def _sketch(gradients: Float[Array, "b o size"], key: Array, k: int) -> Float[Array, "b o length"]:
    *_, outputs, size = gradients.shape
    width = length(size, k) // REPEATS
    rows, dtype = size // width, gradients.dtype  # whole ones: padding the last would copy all of them
    signs = jax.random.rademacher(key, (size + REPEATS * (rows + 1),), dtype)
    d, s = signs[None, :size], signs[size:].reshape(REPEATS, rows + 1) / math.sqrt(REPEATS)

    def of_output(o: Array) -> Float[Array, "b length"]:
        signed = jax.lax.dynamic_index_in_dim(gradients, o, 1, keepdims=False) * d
        whole = signed[:, : rows * width].reshape(-1, rows, width)
        rest = jnp.pad(signed[:, rows * width :], ((0, 0), (0, (rows + 1) * width - size)))
        lines = jnp.broadcast_to(s[:, :-1], (len(whole), REPEATS, rows))  # as a batch of products: faster on CPU
        sums = jnp.matmul(lines, whole, precision="highest") + s[None, :, -1:] * rest[:, None, :]
        return sums.reshape(len(whole), -1)

    return jax.lax.map(of_output, jnp.arange(outputs)).swapaxes(0, 1)  # one at a time: a fraction of the memory


def estimate(
    a: Float[Array, "n o length"],
    b: Float[Array, "m o length"],
    product: Callable[[Float[Array, "n o w"], Float[Array, "m o w"]], Array],
) -> KernelEstimate:
    """A block of the kernel from the sketches of two batches, with the variance of its entries.

    With Q_r the product of the r-th repeats, the block is their sum Θ = Σ_r Q_r, the mean of R
    independent estimates R Q_r, and its variance  R/(R − 1) Σ_r (Q_r − Θ/R)².

    Args:
      a, b: sketches, under one path, k and seed; size must have been larger than k.
      product: from the gradients of two batches to a block, sums of inner products.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> g = jax.random.normal(jax.random.key(0), (2, 1, 3000))
      >>> rows = sketch(g, "kernel", k=1600)
      >>> exact, (block, variance) = jnp.einsum("nop,mop->nm", g, g), estimate(
      ...     rows, rows, lambda a, b: jnp.einsum("nop,mop->nm", a, b)
      ... )
      >>> bool((jnp.abs(block - exact) < 4 * jnp.sqrt(variance)).all())
      True
    """
    repeats = [x.reshape(*x.shape[:2], REPEATS, -1) for x in (a, b)]

    def of_repeat(r: Array) -> Array:
        return product(*(jax.lax.dynamic_index_in_dim(x, r, 2, keepdims=False) for x in repeats))

    def add(r: Array, so_far: tuple[Array, Array]) -> tuple[Array, Array]:
        mean, squares = so_far  # Welford's update: two sums of squares would cancel
        part = of_repeat(r)
        change = part - mean
        mean = mean + change / (r + 1)
        return mean, squares + change * (part - mean)

    zeros = jnp.zeros_like(jax.eval_shape(of_repeat, 0))
    mean, squares = jax.lax.fori_loop(0, REPEATS, add, (zeros, zeros))
    return KernelEstimate(REPEATS * mean, REPEATS / (REPEATS - 1) * squares)
