"""The edge of stability of the linearized network, known before anything is trained."""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, Float

from linft.core.base import Tangent
from linft.core.recipe import Loss, Recipe
from linft.predict.dual import predictable
from linft.predict.eigen import largest
from linft.predict.operator import among, on_host, operator
from linft.training import optimizer


@dataclass(frozen=True)
class Stability:
    """Where a recipe stands: it is stable for h below the limit."""

    lambda_max: float
    """Largest eigenvalue of the weighted kernel, times the loss's Hessian, over the number of examples."""
    h: float
    """Largest learning rate × (λmax + decay), full batch."""
    limit: float
    """2(1+m) for heavy ball, 2(1+m)/(1+2m) for Nesterov."""
    worst_batch_h: float
    """h of the worst minibatch of the replay."""
    largest_stable_rate: float
    """The learning rate at which h meets the limit, full batch."""

    @property
    def stable(self) -> bool:
        """Whether the full batch and the worst minibatch are both below the limit."""
        return max(self.h, self.worst_batch_h) < self.limit


def limit_of(recipe: Recipe) -> float:
    """Largest stable η λ: 2(1+m) for heavy ball, 2(1+m)/(1+2m) for Nesterov.

    Example:
      >>> limit_of(Recipe(momentum=0.5, nesterov=True)), limit_of(Recipe(momentum=0.5, nesterov=False))
      (1.5, 3.0)
    """
    m = recipe.momentum
    return 2 * (1 + m) / (1 + 2 * m) if recipe.nesterov else 2 * (1 + m)


def stability(tangent: Tangent, recipe: Recipe) -> Stability:
    """How far a recipe is from the edge of stability of the linearized network.

    With the mean loss over N examples, h = η (λmax(H^½ Θ H^½)/N + λ), where Θ is the kernel weighted
    by the group multipliers and H the loss's Hessian at the initial logits: 1 for squared error,
    diag(p) − ppᵀ for cross-entropy. Heavy ball is stable for h < 2(1+m), Nesterov for
    h < 2(1+m)/(1+2m). For cross-entropy the Hessian shrinks as training goes, so a recipe beyond the
    edge may settle after a first rise. The real network's edge moves: under a fresh head near zero the
    curvature of the layers below is hidden and grows as the head does, so that real runs break at a few
    per cent of this edge (experiments/sweep_truth.py, `linft.workflows.advise.rules.safe`).

    Raises:
      LinftError: no kernel predicts the recipe, or none whose batch norm is in the tangent's mode.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(10, 10)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=4)
      >>> edge = stability(linft.predict.tangent(model, task), linft.Recipe(steps=5))
      >>> edge.limit
      1.3571428571428572
    """
    predictable([recipe], tangent.batch_norm, tangent.draws)
    n = len(tangent.labels_train)
    numbers = optimizer.settings(recipe, tangent.groups, tangent.num_images)
    weights = {g: float(m) for g, m in numbers.multipliers.items()}
    theta = on_host(operator(tangent.kernel_train, tangent, weights))
    root = hessian_root(tangent.logits_train, recipe.loss)
    decay = max((weights[g] * float(numbers.decays[g]) for g in weights), default=0.0)
    limit = limit_of(recipe)
    curvature = largest(theta, root) / n
    rates, batches = recipe.rates(tangent.num_images), tangent.rows(recipe)
    worst = max(
        (
            rate * (largest(among(theta, batch), root[batch]) / len(batch) + decay)
            for batch, rate in zip(batches, rates, strict=True)
        )
        if batches.shape[1] < n
        else (),
        default=0.0,
    )
    h = rates.max(initial=0.0) * (curvature + decay)
    shape = rates.max(initial=0.0) / recipe.learning_rate
    return Stability(
        lambda_max=curvature,
        h=float(h),
        limit=limit,
        worst_batch_h=float(max(worst, h)),
        largest_stable_rate=float(limit / ((curvature + decay) * shape)) if (curvature + decay) * shape else np.inf,
    )


def hessian_root(logits: Float[Array, "n c"], loss: Loss) -> Float[np.ndarray, "n c c"]:
    """H^½ for every example: of 1 for squared error, of diag(p) − ppᵀ for cross-entropy."""
    n, c = logits.shape
    if loss == "squared_error":
        return np.broadcast_to(np.eye(c), (n, c, c))
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    values, vectors = np.linalg.eigh(p[:, :, None] * np.eye(c) - p[:, :, None] * p[:, None, :])
    return (vectors * np.sqrt(np.maximum(values, 0))[:, None, :]) @ vectors.transpose(0, 2, 1)
