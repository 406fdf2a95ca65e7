"""What is measured before anything is trained: scores of the model on the task, and its kernel's curvature."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from linft.core.base import Model, Tangent
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.predict.spectrum import half_learnt, spectrum
from linft.predict.stability import limit_of, stability
from linft.runtime.schema import Number
from linft.scores.gather import LAST_CONVOLUTION
from linft.scores.small_network import HELD_OUT
from linft.workflows.rank import uncertainty
from linft.workflows.rank.score_models import Sample, scored

SCORES = ("lfc", "lgc", "fisher", "domain_similarity", "linear_probe", "probe_gap")
SHOWN = 10  # eigenvalues that are reported

Similarity = Literal["near", "between", "far"]


@dataclass(frozen=True)
class Measures:
    """Scores of one model on a sample of a task's training images."""

    images: int
    scores: Mapping[str, float]
    undefined: Mapping[str, str]
    """Scores that do not exist here, and why."""

    @property
    def gap(self) -> float | None:
        """Accuracy of a linear classifier on the fixed features, less that of a small network from random weights."""
        return self.scores.get("probe_gap")

    @property
    def gap_error(self) -> float | None:
        """Standard error of the gap: that of two shares, p(1 − p)/n each, the second over the images held out."""
        if self.gap is None:
            return None
        probe = self.scores["linear_probe"]
        scratch = probe - self.gap
        return math.sqrt(
            probe * (1 - probe) / self.images + max(scratch * (1 - scratch), 0.0) / (HELD_OUT * self.images)
        )

    @property
    def similarity(self) -> Similarity:
        """Whether the pretrained features suit the task, by the sign of the gap where that exceeds its error.

        Plested and others 2021, Table 7: random initialisation less fixed features tells best. There both are
        the same network; here a small one stands in for the one from random weights.
        """
        gap, error = self.gap, self.gap_error
        if gap is None or error is None or abs(gap) <= error:
            return "between"
        return "near" if gap > 0 else "far"


def measure(model: Model, task: Task, shots: int = 25, seed: int = 0, output: Path | None = None) -> Measures:
    """Scores from one pass over at most so many training images of each class; the test part is not looked at.

    Args:
      model: with its source's head.
      shots: images of each class, at most.
      seed: of the drawn images and of the small network.
      output: a directory that keeps them, in models.jsonl.

    Raises:
      LinftError: the model has weights or features that are not finite; the small network diverged.

    Example:
      >>> import linft
      >>> found = measure(linft.load_model("resnet14-mnist"), linft.load_task("digits"), shots=5)
      >>> found.images, found.scores["lfc"] > 0
      (50, True)
    """
    drawn = task.max_per_class(shots, seed)
    sample = Sample(drawn, SCORES, uncertainty.halves(drawn.y_train, 0), LAST_CONVOLUTION, seed)
    ((_, found),) = scored({model.name: model}, sample, 1, output)
    if isinstance(found, str):
        raise LinftError(found)
    return Measures(len(drawn.y_train), found.scores, found.undefined)


@dataclass(frozen=True)
class Curvature:
    """What a kernel says of the rates that a run can take, with the loss's Hessian H at the start."""

    largest: float
    """λ1: largest eigenvalue of H^½ Θ H^½ / n over all training images."""
    worst_batch: float
    """The same over the worst minibatch, or λ1 if that is larger."""
    condition: Number
    """κ: largest eigenvalue of Θ over the one down to which half of the initial residual lies; None where that is 0."""
    eigenvalues: Sequence[float]
    """The largest of Θ."""
    label_alignment: Sequence[float]
    """Share of the initial residual along each."""
    group_share: Mapping[str, float]
    """Share of Θ's trace by layer group."""

    def edge(self, recipe: Recipe) -> float:
        """Effective rate η/(1 − m) at which the worst minibatch meets the edge of stability."""
        return limit_of(recipe) / self.worst_batch / (1 - recipe.momentum) if self.worst_batch > 0 else math.inf

    def learning(self, steps: int) -> float:
        """Effective rate κ / (λ1 · steps), which in so many steps takes e^-1 off half of the residual.

        Along an eigenvector with eigenvalue λ it falls as exp(−η' λ t) (Deshpande and others 2021, eq. 3).
        """
        if self.condition is None or self.largest <= 0 or steps == 0:
            return math.inf
        return self.condition / (self.largest * steps)


def curvature(tangent: Tangent, recipe: Recipe) -> Curvature:
    """The curvature of a start, for the minibatches of a recipe, with batch norm in the tangent's mode.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(10, 10)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=2)
      >>> found = curvature(linft.predict.tangent(model, task), Recipe(batch_size=5, steps=4))
      >>> found.worst_batch >= found.largest > 0, found.condition >= 1
      (True, True)
    """
    plain = Recipe(learning_rate=1.0, batch_norm=tangent.batch_norm, batch_size=recipe.batch_size, loss=recipe.loss)
    steps = recipe.num_steps(len(tangent.labels_train))
    at_one = stability(tangent, plain.replace(steps=max(1, steps), shuffle=recipe.shuffle, seed=recipe.seed))
    of, smallest = spectrum(tangent, recipe.loss, SHOWN), half_learnt(tangent, recipe.loss)
    return Curvature(
        largest=at_one.lambda_max,
        worst_batch=at_one.worst_batch_h,
        condition=of.eigenvalues[0] / smallest if smallest > 0 else None,
        eigenvalues=tuple(of.eigenvalues),
        label_alignment=tuple(of.label_alignment),
        group_share=of.group_share,
    )
