"""The table of scores: a name, the function, and which inputs it takes."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from linft.core.errors import LinftError
from linft.scores.alignment import lfc, lgc
from linft.scores.decorrelation import decorrelation_gap
from linft.scores.dissimilarity import parc, rsa
from linft.scores.domain_similarity import domain_similarity
from linft.scores.dynamics import generalization, training_speed
from linft.scores.feature_metrics import feature_metrics
from linft.scores.fisher import fisher
from linft.scores.hscore import hscore
from linft.scores.knn import knn
from linft.scores.leep import leep, nce, nleep
from linft.scores.linear_probe import linear_probe, probe_gap
from linft.scores.logme import logme
from linft.scores.predicted_accuracy import predicted_accuracy
from linft.scores.random_score import random_score
from linft.scores.score_inputs import ScoreInputs
from linft.scores.transrate import transrate


@dataclass(frozen=True)
class Score:
    """A row of the table; called on `ScoreInputs` it gives the score, of which more is better."""

    function: Callable[..., float]
    takes: tuple[str, ...]
    """Names of `ScoreInputs`, in the order of the function's arguments."""
    what: str
    """One line."""
    votes: bool = True
    """Whether it takes part in a consensus: not where it ranks by chance, or as another score does."""
    resampled: bool = True
    """Whether it is computed on halves of the sample too, for its error; not where that takes minutes."""

    def __call__(self, inputs: ScoreInputs) -> float:
        """The score.

        Raises:
          Undefined: it does not exist for these inputs.
        """
        return self.function(*(inputs.given(name) for name in self.takes))


def _probe_gap(features: np.ndarray, labels: np.ndarray, scratch_accuracy: float) -> float:
    return probe_gap(linear_probe(features, labels), scratch_accuracy)


def _nleep(features: np.ndarray, labels: np.ndarray, seed: int) -> float:
    return nleep(features, labels, seed=seed)


FEATURES, KERNEL = ("features", "labels"), ("kernel", "labels")

SCORES: dict[str, Score] = {
    "lgc": Score(lgc, KERNEL, "correlation of the last convolution's tangent kernel with the labels"),
    "lfc": Score(lfc, FEATURES, "correlation of the features' inner products with the labels"),
    "training_speed": Score(
        training_speed, ("kernel", "residual"), "how fast a new head's loss falls at first, by the kernel"
    ),
    "generalization": Score(
        partial(generalization, ridge=0.01),
        ("kernel", "residual"),
        "the bound on the test error by the kernel, with a ridge of 0.01",
    ),
    "predicted_accuracy": Score(
        predicted_accuracy,
        ("tangent", "labels", "seed"),
        "accuracy of a fine-tuned new head and last convolution, predicted from their kernel, cross-validated",
        resampled=False,
    ),
    "leep": Score(leep, ("probabilities", "labels"), "log likelihood of labels from the source's classes"),
    "nce": Score(nce, ("source_labels", "labels"), "the same from the most probable source class alone"),
    "nleep": Score(_nleep, (*FEATURES, "seed"), "the same from clusters of the features", resampled=False),
    "logme": Score(logme, FEATURES, "evidence of a Bayesian linear model on the features"),
    "hscore": Score(hscore, FEATURES, "variance between classes over that of the features, with shrinkage"),
    "fisher": Score(
        partial(fisher, ridge=0.001),
        FEATURES,
        "variance between classes over that within; ridge 0.001",
    ),
    "transrate": Score(transrate, FEATURES, "rate that the features need less when the class is known"),
    "parc": Score(parc, FEATURES, "rank correlation of the features' dissimilarities with the labels'"),
    "rsa": Score(
        rsa,
        ("features", "reference"),
        "rank correlation of them with those of a small network on the task",
    ),
    "domain_similarity": Score(
        domain_similarity,
        ("source_means", "source_counts", "target_means", "target_counts"),
        "nearness of the class means of source and target",
    ),
    "feature_metrics": Score(feature_metrics, ("features",), "sparsity of the features; no labels are used"),
    "knn": Score(knn, FEATURES, "accuracy of the 5 nearest neighbours, leaving one out"),
    "linear_probe": Score(linear_probe, FEATURES, "accuracy of a linear classifier, cross-validated"),
    "probe_gap": Score(
        _probe_gap, (*FEATURES, "scratch_accuracy"), "that less a small network's from scratch", votes=False
    ),
    "decorrelation_gap": Score(
        decorrelation_gap,
        ("layer_inputs", "layer_gradients", "labels"),
        "how far LGC is from its feature-only form",
        votes=False,
    ),
    "random": Score(random_score, ("model", "seed"), "a number drawn by the model's name", votes=False),
}

SMALL = frozenset(("reference", "scratch_accuracy"))
"""Inputs that the small network gives, which is trained once for a task."""

COSTLY = frozenset(("tangent",))
"""Inputs that cost more than a pass over the images."""

DEFAULT = tuple(name for name, score in SCORES.items() if score.votes and not COSTLY & set(score.takes))


def chosen(names: Sequence[str] | None) -> tuple[str, ...]:
    """The scores of these names, `all` being every one; by default those that vote and cost one pass at most.

    Raises:
      LinftError: there is no such score.

    Example:
      >>> chosen(("lfc", "leep"))
      ('lfc', 'leep')
    """
    if names is None:
        return DEFAULT
    if "all" in names:
        return tuple(SCORES)
    unknown = [name for name in names if name not in SCORES]
    if unknown or not names:
        raise LinftError(f"no score {', '.join(unknown) or '(none given)'}; choose among all, {', '.join(SCORES)}")
    return tuple(dict.fromkeys(names))


def needs(names: Collection[str]) -> frozenset[str]:
    """The inputs that scores take."""
    return frozenset(part for name in names for part in SCORES[name].takes)
