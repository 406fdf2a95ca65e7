"""What scores are computed from: of a sample of the target's images what one model makes of them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int

from linft.core.base import ClassMeans, Tangent
from linft.scores.arrays import Undefined
from linft.scores.predicted_accuracy import part

LAYER = ("layer_inputs", "layer_gradients")


@dataclass(frozen=True)
class ScoreInputs:
    """Of n target images what one model makes of them. What is not there is None, for the reason in `missing`."""

    model: str
    labels: Int[np.ndarray, "n"]
    features: Float[np.ndarray, "n d"]
    probabilities: Float[np.ndarray, "n s"] | None = None
    """Of the source's classes."""
    kernel: Float[np.ndarray, "n n"] | None = None
    """Of the layers that `ScoreGradients` says, with the source's head."""
    kernel_error: Float[np.ndarray, "n n"] | None = None
    """Standard error of a projected kernel's entries."""
    layer_inputs: Float[np.ndarray, "n t p"] | None = None
    """Patches of the last convolution's input, by position."""
    layer_gradients: Float[np.ndarray, "n t q"] | None = None
    """Gradients at its output, of the logits along random signs over them."""
    source: ClassMeans | None = None
    reference: Float[np.ndarray, "n r"] | None = None
    """Features of the small network that was trained on the target."""
    scratch_accuracy: float | None = None
    """Its accuracy on images that it was not trained on."""
    tangent: Tangent | None = None
    """With a fresh head, of the head and of the layers that `ScoreGradients` says, on the n images."""
    seed: int = 0
    missing: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    """What each part took; `compile` apart from the others."""

    def given(self, name: str) -> Any:
        """The input of a name.

        Raises:
          Undefined: it is not there; with the reason.
        """
        value = getattr(self, name)
        if value is None:
            raise Undefined(self.missing.get(name, f"{name.replace('_', ' ')} was not gathered"))
        return value

    def take(self, indices: Int[np.ndarray, "k"]) -> Self:
        """The inputs of some of the images."""
        some = {name: getattr(self, name) for name in ("features", "probabilities", "reference", *LAYER)}
        pairs = {name: getattr(self, name) for name in ("kernel", "kernel_error")}
        return dataclasses.replace(
            self,
            labels=self.labels[indices],
            **{name: None if array is None else array[indices] for name, array in some.items()},
            **{name: None if array is None else array[np.ix_(indices, indices)] for name, array in pairs.items()},
            tangent=None if self.tangent is None else part(self.tangent, indices, indices),
        )

    @property
    def source_labels(self) -> Int[np.ndarray, "n"] | None:
        """The source's most probable class of every image."""
        return None if self.probabilities is None else self.probabilities.argmax(1)

    @property
    def source_means(self) -> Float[np.ndarray, "s d"] | None:
        """Mean features of the source's classes."""
        return None if self.source is None else self.source.means

    @property
    def source_counts(self) -> Int[np.ndarray, "s"] | None:
        """Images that each of them is the mean of."""
        return None if self.source is None else self.source.counts

    @property
    def target_means(self) -> Float[np.ndarray, "c d"]:
        """Mean features of the target's classes among the images."""
        classes, which = np.unique(self.labels, return_inverse=True)
        sums = np.zeros((len(classes), self.features.shape[1]))
        np.add.at(sums, which, self.features)
        return sums / self.target_counts[:, None]

    @property
    def target_counts(self) -> Int[np.ndarray, "c"]:
        """Images that each of them is the mean of."""
        return np.unique(self.labels, return_counts=True)[1]

    @property
    def residual(self) -> Float[np.ndarray, "n c"]:
        """δY: one-hot labels less each class's share, which is what a new head's bias knows."""
        one_hot = (self.labels[:, None] == np.unique(self.labels)[None, :]).astype(float)
        return one_hot - one_hot.mean(0, keepdims=True)
