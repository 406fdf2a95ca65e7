"""How the loss sharpens along the predicted path, and which recipes break on it, known before anything is trained.

Under a fresh head the curvature of the layers below is hidden at the start, and grows a hundredfold as the head does;
under a trained one it grows less. The path on which it grows is predicted well as far as the first half of the loss
goes, from one kernel; there the network's own curvature is looked at. Where a rate meets the edge of stability the run
leaves the path, and oscillates. The oscillations hold the curvature down (Cohen and others 2025, the central flow), but
only so far: runs whose rate is four times the edge by the time half of the loss is gone mostly do not come back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Array, Float
from scipy.sparse.linalg import LinearOperator

from linft.core import recipe_fields
from linft.core.base import Model
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.ntk.matrix_free.krylov import spectral_measure
from linft.ntk.matrix_free.operator import kernel_operator
from linft.predict.moving import Followed, Moving, moving
from linft.predict.stability import hessian_root, limit_of
from linft.predict.tangent import outputs_on
from linft.runtime import schema
from linft.runtime.progress import Count
from linft.training import optimizer

LOOKS = 6
"""Places on the path, equally far from one another in the loss."""
PART = 0.5
"""Of the loss at the start that the path goes down to."""
IMAGES = 64
"""Training images on which the curvature is measured: it is nearly the same of a minibatch of 16."""
PRODUCTS = 6
"""Of Lanczos: the largest eigenvalue stands out."""
SLOW = 0.002
"""The rate of the path over the largest stable one at the start; doubled until the path is long enough."""
STEPS, MOMENTUM = 240, 0.95
"""Of the path."""
BREAKS = 4.0
"""The rate over the largest stable one on the path from which a run is said to break. Chosen on four tasks
(experiments/breaks.py)."""
HOLDS = 2.0
"""The same up to which predictions still tell which recipe is best; chosen likewise."""


@dataclass(frozen=True)
class Edge:
    """Where a recipe meets the edge of stability on a path."""

    step: int | None
    """The first at which its rate is above the largest stable one; None: at none."""
    overshoot: float
    """The rate over the largest stable one, the largest on the path."""

    @property
    def holds(self) -> bool:
        """Whether the run stays so near the path that its prediction may be compared with others."""
        return self.overshoot < HOLDS

    @property
    def breaks(self) -> bool:
        """Whether the run is expected to lose what it has learned, rather than to settle at the edge."""
        return self.overshoot >= BREAKS

    def __str__(self) -> str:
        if self.step is None:
            return f"stays below the edge of stability, {self.overshoot:.2g} of it at most"
        what = "is expected to break" if self.breaks else "is expected to oscillate there"
        above = f"up to {self.overshoot:.2g} times the largest stable rate"
        return f"meets the edge of stability at about step {self.step} and goes {above}: {what}"


@dataclass(frozen=True, kw_only=True)
class Sharpening:
    """The curvature along a predicted path, at k places."""

    schema: str = "linft-sharpening-1"
    way: tuple[float, ...]
    """How far each place is: as a recipe would lead under a constant gradient of 1 (`ways`)."""
    train_loss: tuple[float, ...]
    """Predicted there."""
    lambda_max: tuple[float, ...]
    """λmax of the loss's Gauss–Newton matrix Σ_g μ_g J_gᵀ H J_g / N of the network there."""
    layers: Recipe
    """What trains, and with which factors on the rate."""

    def edge(self, recipe: Recipe, n: int) -> Edge:
        """Where a recipe meets the edge, for n training images: η_t (λmax + λ) above `limit_of(recipe)`.

        The path is the same for all rates, momenta and decays; a recipe is as far on it as the sum of its steps is.

        Raises:
          LinftError: a recipe that has no edge (`why_no_edge`), that trains other layers, or another loss.
        """
        if layers_of(recipe) != self.layers:
            raise LinftError("the path is of another loss, other layers or factors; call sharpening with the recipe")
        _refuse(recipe)
        rates, decay = recipe.rates(n), max(recipe.weight_decay, recipe.l2sp)
        before = np.concatenate([[0.0], ways(recipe, n)])[: len(rates)]
        lambdas = np.exp(np.interp(before, self.way, np.log(np.maximum(self.lambda_max, 1e-30))))
        shares = rates * (lambdas + decay) / limit_of(recipe)
        above = np.flatnonzero(shares >= 1)
        return Edge(int(above[0]) if len(above) else None, float(shares.max(initial=0.0)))


def why_no_edge(recipe: Recipe) -> str | None:
    """Why no edge of stability along a path is known of a recipe; None where one is."""
    if recipe.batch_norm == "train":
        return "batch norm is in training mode, where real runs do not break as with frozen statistics"
    if recipe.clip_norm is not None:
        return "its gradients are clipped, and clipped steps have no edge"
    return recipe_fields.why_not(recipe, "kernel", batch_norm="frozen")


def _refuse(recipe: Recipe) -> None:
    if reason := why_no_edge(recipe):
        raise LinftError(f"no edge of stability along a path is known of this recipe: {reason}")


def layers_of(recipe: Recipe) -> Recipe:
    """The part of a recipe that a path is of."""
    return Recipe(
        loss=recipe.loss,
        frozen_groups=recipe.frozen_groups,
        rate_multipliers=recipe.rate_multipliers,
        label_smoothing=recipe.label_smoothing,
    )


def sharpening(
    model: Model,
    task: Task,
    recipe: Recipe = Recipe(),
    *,
    at: Literal["network", "features"] = "features",
    batch_size: int = 32,
    progress: Count | None = None,
) -> Sharpening:
    """How the curvature grows along the path that a kernel predicts, as far as half of the loss goes.

    λmax(w_s) of Σ_g μ_g J_gᵀ H J_g / N at the predicted weights w_s, by Lanczos, H the loss's Hessian in logits: the
    largest stable rate is limit / λmax (`stability`). Batch norm is frozen: in training mode real runs do not break
    where these do (experiments/sweep_truth.py). Costs one Jacobian of the training images and six networks' curvature.

    Args:
      recipe: of it the loss, the layers that train and their factors on the rate count.
      at: what is linearized; features, with the head exact, unless the head is trained already.
      batch_size, progress: as in `empirical_ntk`.

    Raises:
      LinftError: a recipe that has no edge (`why_no_edge`).

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(20, 10)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=4)
      >>> found = sharpening(model, task)
      >>> bool(found.train_loss[-1] < found.train_loss[0])
      True
      >>> found.edge(linft.Recipe(learning_rate=1e-6, batch_size=10, steps=5), 20).step is None
      True
    """
    _refuse(recipe)
    layers = layers_of(recipe)
    slow = layers.replace(momentum=MOMENTUM, batch_size=recipe.batch_size, steps=STEPS)
    x = model.preprocess(task.x_train)
    start = curvature(model, x, layers)
    alone = task.replace(x_test=task.x_test[:1], y_test=task.y_test[:1])  # the path is that of training images
    path = _path(moving(model, alone, at=at, anchors=1, batch_size=batch_size, progress=progress), slow, start)
    loss = path.evidence.predicted
    levels = loss[0] + (max(loss.min(), PART * loss[0]) - loss[0]) * np.arange(1, LOOKS + 1) / LOOKS
    steps = np.unique([int(np.argmax(loss <= level)) for level in levels])
    lambdas = [curvature(path.network(int(step)), x, layers) for step in steps]
    places = np.concatenate([[0], steps])
    way = np.concatenate([[0.0], ways(path.recipe, len(task.y_train))])
    return Sharpening(
        way=tuple(way[places].tolist()),
        train_loss=tuple(loss[places].tolist()),
        lambda_max=(start, *lambdas),
        layers=layers,
    )


def kept(file: Path, make: Callable[[], Sharpening]) -> Sharpening:
    """That in a file, or a new one that is kept there."""
    if file.exists():
        return schema.read(file, Sharpening)
    found = make()
    schema.write(file, found)
    return found


def ways(recipe: Recipe, n: int) -> Float[np.ndarray, "steps"]:
    """How far each step leads under a constant gradient of 1.

    Example:
      >>> ways(Recipe(learning_rate=0.1, momentum=0.5, nesterov=False, batch_size=2, steps=3), 2).round(6).tolist()
      [0.1, 0.25, 0.425]
    """
    rates, m = recipe.rates(n), recipe.momentum
    return np.cumsum(rates * (1 - m ** (np.arange(len(rates)) + 1 + recipe.nesterov)) / (1 - m))


def curvature(model: Model, x: Float[Array, "n h w ch"], layers: Recipe, products: int = PRODUCTS) -> float:
    """λmax of Σ_g μ_g J_gᵀ H J_g / n on some images, and so of H^½ Θ H^½ / n."""
    x = x[:IMAGES]
    root = hessian_root(outputs_on(model, x), layers.loss)
    groups = optimizer.kernel_groups(model.layer_groups, layers)
    numbers = optimizer.settings(layers.replace(steps=1), tuple(groups), len(x))
    theta = kernel_operator(
        model, x, groups=groups, weights={g: float(mu) for g, mu in numbers.multipliers.items()}, batch_size=len(x)
    )

    def turned(v: np.ndarray) -> np.ndarray:
        return np.einsum("nij,nj->ni", root, v.reshape(root.shape[:2])).reshape(-1).astype(x.dtype)

    weighted = LinearOperator(theta.shape, matvec=lambda v: turned(theta @ turned(v)), dtype=theta.dtype)  # pyright: ignore
    points, _ = spectral_measure(weighted, np.random.default_rng(0).normal(size=theta.shape[0]), products)
    return float(max(points[0], 0.0)) / len(x)


def _path(run: Moving, slow: Recipe, start: float) -> Followed:
    """The slowest of rates that double on which the predicted loss falls so far, or the last below the edge."""
    found: Followed | None = None
    edge = limit_of(slow) / start if start else 1.0
    rate = SLOW * edge
    while found is None or (rate < edge and found.evidence.predicted[-1] > PART * found.evidence.predicted[0]):
        here = slow.replace(learning_rate=rate)
        further = next(run.stages(here)) if found is None else run.along(found.way, here)
        assert further is not None  # of the same layers
        if found is not None and further.evidence.diverged:
            break
        found, rate = further, 2 * rate
    return found
