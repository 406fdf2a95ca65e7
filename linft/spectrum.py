"""What a kernel looks like: its eigenvalues, where the labels lie in them, and how it changed."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linft.base import Tangent
from linft.predict.operator import dense, operator
from linft.recipe import Loss

MOST = 200  # eigenvalues that are reported


def spectrum(tangent: Tangent, loss: Loss) -> dict[str, Any]:
    """Largest eigenvalues of the train kernel, the share of the initial residual along each, and group shares.

    The residual is what the first gradient sees: Y − f0 for squared error, Y − softmax(f0) for
    cross-entropy. A network learns fast what lies along large eigenvalues (Deshpande and others
    2021, eq. 3).
    """
    n, c = tangent.logits_train.shape
    theta = dense(operator(tangent.kernel_train, tangent, dict.fromkeys(tangent.groups, 1.0)))
    values, vectors = np.linalg.eigh(np.asarray(theta, np.float64).reshape(n * c, n * c))
    f0 = tangent.logits_train if loss == "squared_error" else jax.nn.softmax(tangent.logits_train)
    residual = np.asarray(jax.nn.one_hot(tangent.labels_train, c) - f0, np.float64).reshape(-1)
    shares = (vectors.T @ residual) ** 2 / max(float(residual @ residual), 1e-30)
    traces = {g: float(jnp.trace(block)) for g, block in tangent.kernel_train.traces().items()}
    return {
        "eigenvalues": np.maximum(values[::-1][:MOST], 0).tolist(),
        "label_alignment": shares[::-1][:MOST].tolist(),
        "group_share": {g: t / max(sum(traces.values()), 1e-30) for g, t in traces.items()},
    }


def alignment(a: Float[Array, "n m"], b: Float[Array, "n m"]) -> float:
    """⟨A, B⟩ / (‖A‖ ‖B‖), entrywise: 1 where the kernels are the same up to scale.

    Example:
      >>> import jax.numpy as jnp
      >>> round(alignment(jnp.eye(2), 3 * jnp.eye(2)), 5)
      1.0
    """
    size = float(jnp.linalg.norm(a) * jnp.linalg.norm(b))
    return float(jnp.vdot(a, b)) / size if size > 0 else 0.0


def drift(before: Mapping[str, Array], after: Mapping[str, Array]) -> dict[str, Any]:
    """How a kernel changed between two sets of weights on the same images: in all and by group."""
    whole_before, whole_after = (sum(blocks.values()) for blocks in (before, after))
    return {
        "images": len(whole_before),  # pyright: ignore
        "alignment": alignment(whole_before, whole_after),  # pyright: ignore
        "groups": {g: alignment(before[g], after[g]) for g in before},
        "norm_ratio": float(jnp.linalg.norm(whole_after) / jnp.linalg.norm(whole_before)),
    }
