"""Arrays as every score takes them: finite float64, classes without gaps; `Undefined` where there is no score."""

from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Float, Int, Integer

from linft.core.errors import LinftError

CONSTANT = 1e-12  # a spread below this part of the largest value is round-off


class Undefined(LinftError):
    """A score that does not exist for its input, with the reason in one line; no score is ever NaN.

    A ranking reports it beside the model and goes on with the other scores.
    """


def finite(array: Any, name: str) -> Float[np.ndarray, "..."]:
    """The array in float64.

    Raises:
      Undefined: some of its numbers are NaN or infinite.
    """
    numbers = np.asarray(array, np.float64)
    if not np.isfinite(numbers).all():
        raise Undefined(f"{name}: {np.sum(~np.isfinite(numbers))} of {numbers.size} numbers are not finite")
    return numbers


def class_numbers(labels: Any) -> Int[np.ndarray, "n"]:
    """Labels as 0 … C−1, whatever integers or names they were and whatever gaps they had.

    Raises:
      LinftError: as `numbered`.
      Undefined: there is one class only, so that there is nothing to tell apart.
    """
    numbers = numbered(labels, "labels")
    if numbers.max(initial=0) == 0:
        raise Undefined(f"all {numbers.size} images are of one class")
    return numbers


def numbered(labels: Any, name: str) -> Int[np.ndarray, "n"]:
    """The place of every label among the sorted ones.

    Raises:
      LinftError: some are neither whole numbers nor names, such as NaN or None.

    Example:
      >>> numbered(np.array([7, 3, 7]), "labels").tolist()
      [1, 0, 1]
    """
    array = np.asarray(labels)
    if array.dtype == object:
        array = np.array(array.tolist())  # as numpy has them: numbers, names, or objects after all
    if array.dtype.kind == "f":
        wrong = ~np.isfinite(array) | (array != np.round(array))
    else:
        wrong = np.full(array.shape, array.dtype.kind not in "iubUS")
    if wrong.any():
        raise LinftError(f"{wrong.sum()} of {wrong.size} {name} are not whole numbers; give every image a class")
    return np.unique(array, return_inverse=True)[1].reshape(-1).astype(np.int64)


def image_features(features: Float[ArrayLike, "n d"], name: str = "features") -> Float[np.ndarray, "n d"]:
    """Features in float64.

    Raises:
      LinftError: they are not a matrix.
      Undefined: some are not finite, or all images have the same.
    """
    x = finite(features, name)
    if x.ndim != 2:
        raise LinftError(f"{name} have shape {x.shape}; give one row an image")
    if x.size == 0 or np.ptp(x, axis=0).max() <= CONSTANT * np.abs(x).max():
        raise Undefined(f"{name}: all {len(x)} images have the same")
    return x


def labelled(
    features: Float[ArrayLike, "n d"], labels: Integer[ArrayLike, "n"]
) -> tuple[Float[np.ndarray, "n d"], Int[np.ndarray, "n"]]:
    """Features in float64 and the class number of each image.

    Raises:
      LinftError: there are not as many labels as rows of features.
      Undefined: as `image_features` and `class_numbers`.
    """
    x, y = image_features(features), class_numbers(labels)
    if len(x) != len(y):
        raise LinftError(f"{len(x)} rows of features and {len(y)} labels; give one label a row")
    return x, y


def square(kernel: Float[ArrayLike, "n n"], n: int) -> Float[np.ndarray, "n n"]:
    """A kernel of n images in float64.

    Raises:
      LinftError: it is not [n n].
      Undefined: some of its entries are not finite.
    """
    theta = finite(kernel, "kernel")
    if theta.shape != (n, n):
        raise LinftError(
            f"the kernel has shape {theta.shape} for {n} images; give [n n], summed or averaged over outputs"
        )
    return theta


def one_hot(numbers: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n c"]:
    """Class numbers 0 … C−1 as rows of the identity."""
    return np.eye(numbers.max() + 1)[numbers]


def principal(
    x: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, "n r"], Float[np.ndarray, "r"], Float[np.ndarray, "r d"]]:
    """U, s, Vᵀ with X = U diag(s) Vᵀ, where r is the numerical rank of X.

    U diag(s) are the rows of X in coordinates of their own span: at most n numbers an image, with the
    same inner products.
    """
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    r = int(np.sum(s > s.max(initial=0.0) * max(x.shape) * np.finfo(np.float64).eps))
    return u[:, :r], s[:r], vt[:r]
