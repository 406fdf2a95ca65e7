"""Accuracy of a linear classifier on the features, cross-validated, and against a network trained from scratch."""

import numpy as np
from jaxtyping import ArrayLike, Float, Integer

from linft.core.errors import LinftError
from linft.scores.arrays import Undefined, labelled, one_hot, principal


def linear_probe(
    features: Float[ArrayLike, "n d"], labels: Integer[ArrayLike, "n"], folds: int = 5, ridge: float = 1e-3
) -> float:
    """Share of images whose class is that of the largest output of a ridge regression on the other folds.

    It minimises Σ_i ‖W (φ_i − φ̄) + ȳ − y_i‖² + λ‖W‖² over the training folds, with y_i one-hot, means of
    those folds, and λ = ridge × Σ_i ‖φ_i − φ̄‖², so that scale does not matter. Images of a class, in
    their order, are dealt to the folds in turn. An image whose class has no other is always trained on
    and never judged.

    Raises:
      LinftError: there are fewer than two folds or more than images, or the ridge is not positive.
      Undefined: there is one class only, no class has two images, or all images have the same features.

    Example:
      >>> import numpy as np
      >>> linear_probe(np.array([[1.0], [0.9], [-1.0], [-0.9]]), np.array([0, 0, 1, 1]), folds=2)
      1.0
    """
    x, y = labelled(features, labels)
    if not 2 <= folds <= len(x):
        raise LinftError(f"folds is {folds}; give 2 to {len(x)}, the number of images")
    if not ridge > 0:
        raise LinftError(f"ridge is {ridge}; it must be above 0")
    of = one_hot(y)
    judged = of.sum(0)[y] > 1
    if not judged.any():
        raise Undefined("no class has two images")
    fold = np.empty(len(x), int)
    fold[np.argsort(y, kind="stable")] = np.arange(len(x)) % folds
    u, s, _ = principal(x - x.mean(0))
    x = u * (s / s[0])  # as few numbers an image as its inner products need
    right = np.zeros(len(x), bool)
    for number in range(folds):
        held = judged & (fold == number)
        mean, share = x[~held].mean(0), of[~held].mean(0)
        z = x[~held] - mean
        weights = np.linalg.solve(z.T @ z + ridge * np.sum(z**2) * np.eye(len(s)), z.T @ (of[~held] - share))
        right[held] = np.argmax((x[held] - mean) @ weights + share, axis=1) == y[held]
    return float(right[judged].mean())


def probe_gap(probe_accuracy: float, scratch_accuracy: float) -> float:
    """Accuracy of a linear classifier on fixed features, less that of the same network trained from scratch.

    Both from 0 to 1. Above 0 the pretrained features suit the task.

    Plested, Shen and Gedeon 2021, *Rethinking binary hyperparameters for deep transfer learning for image
    classification*, Table 7 (with the sign turned).

    Raises:
      LinftError: an accuracy is not between 0 and 1.

    Example:
      >>> probe_gap(0.75, 0.5)
      0.25
    """
    for name, value in (("probe_accuracy", probe_accuracy), ("scratch_accuracy", scratch_accuracy)):
        if not 0 <= value <= 1:
            raise LinftError(f"{name} is {value}; give a share from 0 to 1")
    return float(probe_accuracy - scratch_accuracy)
