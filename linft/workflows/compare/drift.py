"""How the kernel moved as a network was fine-tuned, or as it is predicted to: its direction, labels, norm and rank."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float, Int

from linft.core.base import Model, Tangent
from linft.core.forward_pass import equal_size
from linft.core.task import Task
from linft.core.trees import Groups
from linft.ntk.empirical import empirical_ntk
from linft.predict.tangent import in_mode
from linft.runtime.schema import Number
from linft.scores.alignment import lgc
from linft.scores.arrays import Undefined

IMAGES = 64  # or one batch of the kernel, where that is more
PLACES = 4
"""Steps at which a kernel is computed again, the last included."""

Traces = dict[str, Float[np.ndarray, "n n"]]
"""The kernel of every layer group, summed over the diagonal of the outputs."""


@dataclass(frozen=True, kw_only=True)
class Cosines:
    """Of the whole kernel, and of each layer group's; None where one is not defined."""

    whole: Number
    groups: dict[str, Number]


@dataclass(frozen=True, kw_only=True)
class KernelAt:
    """A kernel at some step of a run."""

    step: int
    with_start: Cosines
    """⟨Θ, Θ₀⟩ / (‖Θ‖ ‖Θ₀‖) with the kernel at the pretrained weights (Fort and others 2020)."""
    with_labels: Cosines
    """Correlation with shared labels, `scores.lgc` (Deshpande and others 2021, eq. 8)."""
    norm_ratio: Number
    """‖Θ‖ / ‖Θ₀‖."""
    effective_rank: Number
    """exp(−Σ pᵢ ln pᵢ) with pᵢ the shares of the eigenvalues (Roy and Vetterli 2007)."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How a kernel changed over a run."""

    images: int
    """The first so many training images."""
    at: list[KernelAt]
    """At the pretrained weights, at some steps, and at the end."""


def drift(kernels: Mapping[int, Traces], labels: Int[np.ndarray, "n"]) -> Drift:
    """How the kernels of some steps of a run, on the same images, differ from the first.

    Example:
      >>> start, labels = np.eye(3), np.array([0, 0, 1])
      >>> found = drift({0: {"stem": start}, 8: {"stem": 2 * start}}, labels).at[-1]
      >>> found.step, round(found.with_start.whole, 3), found.norm_ratio, round(found.effective_rank, 3)
      (8, 1.0, 2.0, 3.0)
    """
    kernels = {step: {g: of.astype(np.float64) for g, of in traces.items()} for step, traces in kernels.items()}
    wholes = {step: sum(traces.values(), start=np.zeros(())) for step, traces in kernels.items()}
    first, start = kernels[0], wholes[0]
    norm = np.linalg.norm(start)

    def at(step: int) -> KernelAt:
        groups, whole = kernels[step], wholes[step]
        return KernelAt(
            step=step,
            with_start=Cosines(
                whole=cosine(start, whole), groups={g: cosine(first[g], of) for g, of in groups.items()}
            ),
            with_labels=Cosines(whole=_lgc(whole, labels), groups={g: _lgc(of, labels) for g, of in groups.items()}),
            norm_ratio=float(np.linalg.norm(whole) / norm) if norm > 0 else None,
            effective_rank=_effective_rank(whole),
        )

    return Drift(images=len(start), at=[at(step) for step in sorted(kernels)])


def cosine(a: Float[np.ndarray, "n m"], b: Float[np.ndarray, "n m"]) -> float | None:
    """⟨A, B⟩ / (‖A‖ ‖B‖), entrywise: 1 where the kernels are the same up to scale.

    Example:
      >>> round(cosine(np.eye(2), 3 * np.eye(2)), 5)
      1.0
    """
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.vdot(a, b) / size) if size > 0 else None


def _lgc(kernel: Float[np.ndarray, "n n"], labels: Int[np.ndarray, "n"]) -> float | None:
    try:
        return lgc(kernel, labels)
    except Undefined:
        return None


def _effective_rank(kernel: Float[np.ndarray, "n n"]) -> float | None:
    values = np.maximum(np.linalg.eigvalsh(kernel), 0)
    if not values.sum() > 0:
        return None
    shares = values[values > 0] / values.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def traced(tangent: Tangent, task: Task, groups: Groups, batch_size: int) -> tuple[Traces, Callable[[Model], Traces]]:
    """The kernel at the pretrained weights on the first training images, and that of the network at others.

    All in outputs and batches of one shape, so that what was compiled for the first serves the others.
    """
    size = equal_size(len(task.y_train), batch_size)
    n = min(len(task.y_train), size * max(1, IMAGES // size))

    def of(model: Model) -> Traces:
        model = in_mode(model, task, tangent.batch_norm)
        x = model.preprocess(task.x_train[:n])
        kernel = empirical_ntk(
            model,
            x,
            outputs=tangent.kernel_train.outputs,
            groups=groups,
            engine=tangent.kernel_train.engine,
            batch_size=size,
            draws=8,
        )
        return jax.device_get(kernel.traces())

    return jax.device_get({g: block[:n, :n] for g, block in tangent.kernel_train.traces().items()}), of
