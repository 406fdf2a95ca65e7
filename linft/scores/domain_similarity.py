"""Earth mover's distance between the classes of source and target."""

import os
import warnings

import numpy as np
from jaxtyping import ArrayLike, Float, Integer

from linft.core.errors import LinftError
from linft.scores.arrays import Undefined, finite

FEWEST = 5  # images of a class whose mean is trusted


def domain_similarity(
    source_means: Float[ArrayLike, "s d"],
    source_counts: Integer[ArrayLike, "s"],
    target_means: Float[ArrayLike, "t d"],
    target_counts: Integer[ArrayLike, "t"],
    gamma: float = 0.01,
) -> float:
    """exp(−γ EMD), the earth mover's distance between mean features of source and target classes.

    A class weighs as many images as it has, over the sum; the ground distance is Euclidean; the
    transport is exact. Classes with fewer than five images are left out. Between 0 and 1. The order of
    models with features of one scale does not depend on γ; between architectures neither scale nor γ
    is innocent.

    Cui and others 2018, *Large scale fine-grained categorization and domain-specific transfer learning*.

    Raises:
      LinftError: means and counts do not belong together, or γ is not positive.
      Undefined: source or target has no class of five images.

    Example:
      >>> import numpy as np
      >>> round(domain_similarity(np.zeros((1, 2)), np.array([9]), np.array([[3.0, 4.0]]), np.array([5])), 4)
      0.9512
    """
    os.environ.setdefault("POT_BACKEND_DISABLE_TENSORFLOW", "1")  # or POT loads it, which takes seconds
    import ot
    from scipy.spatial.distance import cdist

    if not gamma > 0:
        raise LinftError(f"gamma is {gamma}; it must be above 0")
    source, source_weights = _classes("source", source_means, source_counts)
    target, target_weights = _classes("target", target_means, target_counts)
    if source.shape[1] != target.shape[1]:
        raise LinftError(f"source means of {source.shape[1]} features, target means of {target.shape[1]}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a transport that did not converge is none
        distance = ot.emd2(source_weights, target_weights, cdist(source, target), numItermax=10_000_000)
    return float(np.exp(-gamma * float(distance)))  # pyright: ignore


def _classes(
    name: str, means: Float[ArrayLike, "c d"], counts: Integer[ArrayLike, "c"]
) -> tuple[Float[np.ndarray, "k d"], Float[np.ndarray, "k"]]:
    """Means and weights of the classes with enough images."""
    numbers = np.asarray(counts)
    if np.ndim(means) != 2 or len(means) != len(numbers):  # pyright: ignore
        raise LinftError(
            f"{name}: means of shape {np.shape(means)} and {len(numbers)} counts; give one of each a class"
        )
    enough = numbers >= FEWEST
    if not enough.any():
        raise Undefined(f"no {name} class has {FEWEST} images")
    # a class without images has no mean, so what is left out is not looked at
    return finite(np.asarray(means)[enough], f"{name} means"), numbers[enough] / numbers[enough].sum()
