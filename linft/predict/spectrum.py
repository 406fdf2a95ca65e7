"""What a kernel looks like: its eigenvalues, and where the labels lie in them."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from linft.core.base import Tangent
from linft.core.recipe import Loss
from linft.predict import eigen
from linft.predict.operator import Operator, on_host, operator

MOST = 200  # eigenvalues that are reported


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Where the labels lie in a kernel."""

    eigenvalues: list[float]
    """The largest."""
    label_alignment: list[float]
    """Share of the initial residual along each."""
    group_share: dict[str, float]
    """Of the trace."""


def spectrum(tangent: Tangent, loss: Loss, most: int = MOST) -> Spectrum:
    """Largest eigenvalues of the train kernel, the share of the initial residual along each, and group shares.

    The residual is what the first gradient sees: Y − f0 for squared error, Y − softmax(f0) for
    cross-entropy. A network learns fast what lies along large eigenvalues (Deshpande and others
    2021, eq. 3). A cheap kernel is only multiplied by, never written out for every pair of logits.

    Args:
      most: eigenvalues that are reported; all of them where there are fewer.
    """
    values, vectors = eigen.top(_kernel(tangent), most)
    residual = _residual(tangent, loss).reshape(-1)
    shares = (vectors.T @ residual) ** 2 / max(float(residual @ residual), 1e-30)
    traces = {g: float(jnp.trace(block)) for g, block in tangent.kernel_train.traces().items()}
    return Spectrum(
        eigenvalues=np.maximum(values, 0).tolist(),
        label_alignment=shares.tolist(),
        group_share={g: t / max(sum(traces.values()), 1e-30) for g, t in traces.items()},
    )


def half_learnt(tangent: Tangent, loss: Loss) -> float:
    """The eigenvalue of the train kernel down to which half of the initial residual's square lies, or 0.

    To the resolution of `predict.eigen.layout`, which has no part in what is reported.
    """
    values, shares = eigen.layout(_kernel(tangent), _residual(tangent, loss))
    found = float(values[min(int(np.searchsorted(np.cumsum(shares), 0.5)), len(values) - 1)])
    rounding = len(values) * float(np.finfo(tangent.logits_train.dtype).eps) * float(values[0])
    return found if found > rounding else 0.0


def _kernel(tangent: Tangent) -> Operator:
    return on_host(operator(tangent.kernel_train, tangent, dict.fromkeys(tangent.groups, 1.0)))


def _residual(tangent: Tangent, loss: Loss) -> Float[np.ndarray, "n c"]:
    f0 = tangent.logits_train if loss == "squared_error" else jax.nn.softmax(tangent.logits_train)
    return np.asarray(jax.nn.one_hot(tangent.labels_train, f0.shape[1], dtype=f0.dtype) - f0, np.float64)
