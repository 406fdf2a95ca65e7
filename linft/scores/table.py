"""The table of scores: a name, the function, and which evidence it takes."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from linft import scores
from linft.core.errors import LinftError
from linft.scores.evidence import Evidence
from linft.scores.predicted_accuracy import predicted_accuracy


@dataclass(frozen=True)
class Score:
    """A row of the table; called on evidence it gives the score, of which more is better."""

    function: Callable[..., float]
    takes: tuple[str, ...]
    """Names of `Evidence`, in the order of the function's arguments."""
    what: str
    """One line."""
    votes: bool = True
    """Whether it takes part in a consensus: not where it ranks by chance, or as another score does."""
    resampled: bool = True
    """Whether it is computed on halves of the sample too, for its error; not where that takes minutes."""

    def __call__(self, evidence: Evidence) -> float:
        """The score.

        Raises:
          Undefined: it does not exist for this evidence.
        """
        return self.function(*(evidence.given(name) for name in self.takes))


def _probe_gap(features: np.ndarray, labels: np.ndarray, scratch_accuracy: float) -> float:
    return scores.probe_gap(scores.linear_probe(features, labels), scratch_accuracy)


def _nleep(features: np.ndarray, labels: np.ndarray, seed: int) -> float:
    return scores.nleep(features, labels, seed=seed)


FEATURES, KERNEL = ("features", "labels"), ("kernel", "labels")

SCORES: dict[str, Score] = {
    "lgc": Score(scores.lgc, KERNEL, "correlation of the last convolution's tangent kernel with the labels"),
    "lfc": Score(scores.lfc, FEATURES, "correlation of the features' inner products with the labels"),
    "training_speed": Score(
        scores.training_speed, ("kernel", "residual"), "how fast a new head's loss falls at first, by the kernel"
    ),
    "generalization": Score(
        partial(scores.generalization, ridge=0.01),
        ("kernel", "residual"),
        "the bound on the test error by the kernel, with a ridge of 0.01",
    ),
    "predicted_accuracy": Score(
        predicted_accuracy,
        ("tangent", "labels", "seed"),
        "accuracy of a fine-tuned new head and last convolution, predicted from their kernel, cross-validated",
        resampled=False,
    ),
    "leep": Score(scores.leep, ("probabilities", "labels"), "log likelihood of labels from the source's classes"),
    "nce": Score(scores.nce, ("source_labels", "labels"), "the same from the most probable source class alone"),
    "nleep": Score(_nleep, (*FEATURES, "seed"), "the same from clusters of the features", resampled=False),
    "logme": Score(scores.logme, FEATURES, "evidence of a Bayesian linear model on the features"),
    "hscore": Score(scores.hscore, FEATURES, "variance between classes over that of the features, with shrinkage"),
    "fisher": Score(
        partial(scores.fisher, ridge=0.001),
        FEATURES,
        "variance between classes over that within; ridge 0.001",
    ),
    "transrate": Score(scores.transrate, FEATURES, "rate that the features need less when the class is known"),
    "parc": Score(scores.parc, FEATURES, "rank correlation of the features' dissimilarities with the labels'"),
    "rsa": Score(
        scores.rsa,
        ("features", "reference"),
        "rank correlation of them with those of a small network on the task",
    ),
    "domain_similarity": Score(
        scores.domain_similarity,
        ("source_means", "source_counts", "target_means", "target_counts"),
        "nearness of the class means of source and target",
    ),
    "feature_metrics": Score(scores.feature_metrics, ("features",), "sparsity of the features; no labels are used"),
    "knn": Score(scores.knn, FEATURES, "accuracy of the 5 nearest neighbours, leaving one out"),
    "linear_probe": Score(scores.linear_probe, FEATURES, "accuracy of a linear classifier, cross-validated"),
    "probe_gap": Score(
        _probe_gap, (*FEATURES, "scratch_accuracy"), "that less a small network's from scratch", votes=False
    ),
    "decorrelation_gap": Score(
        scores.decorrelation_gap,
        ("layer_inputs", "layer_gradients", "labels"),
        "how far LGC is from its feature-only form",
        votes=False,
    ),
    "random": Score(scores.random_score, ("model", "seed"), "a number drawn by the model's name", votes=False),
}

SMALL = frozenset(("reference", "scratch_accuracy"))
"""Evidence that the small network gives, which is trained once for a task."""

COSTLY = frozenset(("tangent",))
"""Evidence that costs more than a pass over the images."""

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
    """The evidence that scores take."""
    return frozenset(part for name in names for part in SCORES[name].takes)
