"""What a classifier's outputs on labelled images say of it: accuracies, loss, calibration, confusion."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import log_softmax, softmax
from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score

from linft.core.errors import LinftError
from linft.core.recipe import Loss

BINS = 15  # of the expected calibration error, as Guo and others have them
TOP = 5
ROUNDING = 0.01  # how far a row of probabilities, perhaps of bfloat16, may be from summing to one


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What a classifier's outputs say of it."""

    accuracy: float
    """Share of images whose most probable class is their label."""
    top5_accuracy: float | None
    """Share whose label is among the five most probable; None where there are no more than five classes."""
    balanced_accuracy: float
    """Mean recall of the classes with images."""
    mean_per_class_accuracy: float
    """The same by its other name."""
    per_class_accuracy: list[float | None]
    """Recall of each class; None for a class without images."""
    loss: float
    """Mean cross-entropy −log p_y in nats, or of the loss that was trained with."""
    calibration_error: float
    """Σ_b (n_b/n) ∣accuracy_b − confidence_b∣, 15 bins of the largest probability (Guo and others 2017, eq. 3)."""
    confusion_matrix: list[list[int]]
    """Images of class i predicted as j, in row i and column j."""


def evaluate(
    logits: Float[Array | np.ndarray, "n c"], labels: Int[Array | np.ndarray, "n"], loss: Loss = "cross_entropy"
) -> Metrics:
    """All metrics of logits: those of their softmax, and the mean of the loss that they were trained with.

    The loss is the mean cross-entropy in nats, or of ½‖f − e_y‖².

    Raises:
      LinftError: no examples, labels outside 0 … C−1, or logits that are not finite.

    Example:
      >>> import numpy as np
      >>> metrics = evaluate(np.array([[9.0, 0.0], [0.0, 9.0], [9.0, 0.0]]), np.array([0, 1, 1]))
      >>> metrics.confusion_matrix, round(metrics.balanced_accuracy, 2)
      ([[1, 0], [1, 1]], 0.75)
    """
    outputs = np.asarray(logits, np.float64)
    if wrong := int((~np.isfinite(outputs).all(axis=1)).sum()):
        raise LinftError(f"the logits of {wrong} of {len(outputs)} images are not finite; lower the learning rate")
    metrics = evaluate_probabilities(softmax(outputs, axis=1), labels)
    # From the logits, since a probability may underflow to zero.
    return replace(metrics, loss=_mean_loss(loss, outputs, np.asarray(labels)))


def evaluate_probabilities(
    probabilities: Float[Array | np.ndarray, "n c"], labels: Int[Array | np.ndarray, "n"]
) -> Metrics:
    """All metrics of predicted class probabilities, such as the mean over an ensemble or ten crops.

    The bins of the calibration error are of equal width and closed above.

    Raises:
      LinftError: no examples, labels outside 0 … C−1, or rows that are not probabilities.
    """
    predicted, truth = np.asarray(probabilities, np.float64), np.asarray(labels)
    _check(predicted, truth)
    predicted = predicted / predicted.sum(axis=1, keepdims=True)
    classes = np.arange(predicted.shape[1])
    best = predicted.argmax(axis=1)
    confusion = confusion_matrix(truth, best, labels=classes)
    images = confusion.sum(axis=1)
    recall = np.divide(np.diag(confusion), images, out=np.full(len(classes), np.nan), where=images > 0)
    mean_recall = float(np.nanmean(recall))
    return Metrics(
        accuracy=float((best == truth).mean()),
        top5_accuracy=_top(predicted, truth) if len(classes) > TOP else None,
        balanced_accuracy=mean_recall,
        mean_per_class_accuracy=mean_recall,
        per_class_accuracy=[None if np.isnan(share) else float(share) for share in recall],
        loss=float(log_loss(truth, predicted, labels=classes)),
        calibration_error=_calibration_error(predicted.max(axis=1), best == truth),
        confusion_matrix=confusion.tolist(),
    )


def _mean_loss(loss: Loss, logits: np.ndarray, labels: np.ndarray) -> float:
    """The loss of `linft.core.losses`, in double precision."""
    if loss == "cross_entropy":
        return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())
    return float(0.5 * ((logits - np.eye(logits.shape[1])[labels]) ** 2).sum(axis=1).mean())


def _top(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(top_k_accuracy_score(labels, probabilities, k=TOP, labels=np.arange(probabilities.shape[1])))


def _calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    bins = np.digitize(confidence, np.linspace(0, 1, BINS + 1)[1:-1], right=True)
    # A bin's n_b ∣accuracy_b − confidence_b∣ is the size of its summed differences.
    return float(np.abs(np.bincount(bins, weights=correct - confidence)).sum() / len(correct))


def _check(probabilities: np.ndarray, labels: np.ndarray) -> None:
    count, classes = probabilities.shape
    if count == 0 or classes < 2:
        raise LinftError(f"nothing to evaluate: {count} images, {classes} classes; give an image and two classes")
    known = np.isin(labels, np.arange(classes))
    if not known.all():
        raise LinftError(f"a label is {labels[~known][0]}, but labels run from 0 to {classes - 1}, one a class")
    if not ((probabilities >= 0).all() and np.allclose(probabilities.sum(axis=1), 1, atol=ROUNDING)):
        raise LinftError("rows of probabilities must be positive and sum to one; give logits to `evaluate`")
