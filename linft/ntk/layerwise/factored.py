"""Layers near the head whose channels each feed one feature, such as the last convolution and its norm.

Between such a layer and the features there are only masks, sums over positions and factors: with
δ¹ [p o] the gradient of Σ_j φ_j at the layer's output and j(o) the feature that channel o feeds, the
gradient of output direction e is V_o δ¹_po with V = (e Wᵀ)_j(o). So one backward pass, with H the
layer's gradient for δ¹, serves every output:

    Θ[n, k, m, l] = Σ_o V_ko V_lo ⟨H_no, H_mo⟩,     and its trace is Σ_o (Σ_k V_ko²) ⟨H_no, H_mo⟩.

Whether a layer is one of them is seen in the gradients of real images: for irregular weights w of
the features, the gradient must be w_j(o) δ¹ to rounding, with j(o) = o + offset.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

ROUNDING = 1e-3
"""Relative difference that rounding makes, far below that of any two weights."""


def weights(features: int) -> Float[Array, "d"]:
    """Irregular weights w_j in (1, 2)."""
    return jnp.asarray(np.random.default_rng(0).uniform(1, 2, features))


def ratios(
    one: Float[Array, "b ... o"], weighed: Float[Array, "b ... o"]
) -> tuple[Float[Array, "o"], Float[Array, "o"], Float[Array, "o"]]:
    """By channel: the factor that turns δ¹ into the weighed gradient, what is left over, and the size of δ¹."""
    axes = tuple(range(one.ndim - 1))
    square = (one**2).sum(axes)
    factor = (one * weighed).sum(axes) / jnp.where(square > 0, square, 1)
    rest = ((weighed - factor.reshape((1,) * len(axes) + (-1,)) * one) ** 2).sum(axes)
    return factor, jnp.sqrt(rest), jnp.sqrt(square)


def offset(factor: np.ndarray, rest: np.ndarray, size: np.ndarray, features: int) -> int | None:
    """The feature that the first channel feeds; None where channels do not feed one feature each, in order.

    Channels that are dead on the images say nothing; where most of them are, there is no telling.
    """
    alive = size > 1e-6 * size.max()
    if alive.sum() < max(1, len(alive) // 4) or (rest > ROUNDING * size)[alive].any():
        return None
    w = np.asarray(weights(features))
    for start in reversed(range(features - len(factor) + 1)):
        if np.allclose(factor[alive], w[start : start + len(factor)][alive], rtol=0, atol=ROUNDING):
            return start
    return None


def traced(gradient: Float[Array, "b 1 size"], v: Float[Array, "k o"]) -> Float[Array, "b 1 size"]:
    """One gradient whose inner products are those of all outputs together: H_o √(Σ_k V_ko²)."""
    h = gradient.reshape(len(gradient), 1, v.shape[1], -1) * jnp.sqrt((v**2).sum(0))[None, None, :, None]
    return h.reshape(gradient.shape)
