"""A target task: labelled images in a training and a test part, and how to sample from them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int

from linft.core.draws import Draws, refuse_draws
from linft.core.errors import LinftError
from linft.core.names import printable
from linft.core.trees import digest

TEST_SHARE = 0.25  # where a source has no test part


@dataclass(frozen=True)
class Task:
    """Training and test images with labels 0 … C−1. Nothing is ever chosen on the test part.

    Sampling is stratified: every class keeps its share as nearly as whole numbers allow.

    Example:
      >>> import numpy as np
      >>> images, labels = np.zeros((12, 8, 8), np.uint8), np.arange(12) % 3
      >>> task = Task.from_arrays(images, labels, images, labels, name="blank")
      >>> task.few_shot(2, seed=0).y_train.tolist()
      [0, 0, 1, 1, 2, 2]
    """

    name: str
    x_train: Any
    """uint8 images [n h w c], a list of [h w c] where sizes differ, or a sequence that reads each when asked; of draws
    pixels, of the size that a network takes."""
    y_train: Int[np.ndarray, "n"] | Float[np.ndarray, "n c"]
    """Classes; of draws their probabilities."""
    x_test: Any
    y_test: Int[np.ndarray, "m"]
    class_names: tuple[str, ...]
    draws: Draws | None = None
    """Where the images to train on are draws, by `predict.augmented`: then those to test on are all training images
    as they are, and the test images after them."""

    @classmethod
    def from_arrays(
        cls,
        x_train: Any,
        y_train: Any,
        x_test: Any = None,
        y_test: Any = None,
        *,
        name: str = "task",
        class_names: Sequence[str | bytes] | np.ndarray | None = None,
    ) -> Self:
        """A task from uint8 images ([n h w], [n h w 1], [n h w 3], or a list) and integer labels ([n] or [n 1]).

        Images may also be another sequence of [h w c] with a method `take`, such as `LazyImages`; of
        those only the first is looked at here.

        Without a test part, a quarter of the images of each class, drawn with seed 0, becomes one.

        Raises:
          LinftError: images that are not uint8, or are of a wrong shape; labels that are not whole
            numbers, are negative or skip a class; parts of unequal length; an empty part.
        """
        name = printable(name)
        x_train, y_train = _images(x_train, "x_train"), _labels(y_train, "y_train")
        _same_length(x_train, y_train, "train")
        if (x_test is None) != (y_test is None):
            raise LinftError("give both x_test and y_test, or neither")
        classes = int(y_train.max()) + 1 if class_names is None else len(class_names)
        _check_classes(y_train, classes)
        names = tuple(map(printable, range(classes) if class_names is None else class_names))
        if x_test is None:
            whole = cls(name, x_train, y_train, x_train[:0], y_train[:0], names)
            return whole.holdout(TEST_SHARE, seed=0)
        x_test, y_test = _images(x_test, "x_test"), _labels(y_test, "y_test")
        _same_length(x_test, y_test, "test")
        if int(y_test.max()) >= classes:
            raise LinftError(f"y_test has label {int(y_test.max())}, but the training labels end at {classes - 1}")
        return cls(name, x_train, y_train, x_test, y_test, names)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def num_images(self) -> int:
        """n, of the training images."""
        return len(self.y_train) // (1 if self.draws is None else self.draws.count)

    @cached_property
    def digest(self) -> str:
        """Tells these images and labels from any others, whatever they are called; computed once."""
        return digest((self.x_train, self.y_train, self.x_test, self.y_test))

    def replace(self, **changes: Any) -> Self:
        """The same task with some fields changed."""
        return dataclasses.replace(self, **changes)

    def few_shot(self, k: int, seed: int = 0) -> Self:
        """k training images of each class, class by class; the test part stays whole."""
        refuse_draws(self.draws)
        fewest = int(np.bincount(self.y_train, minlength=self.num_classes).min())
        if not 1 <= k <= fewest:
            raise LinftError(f"few_shot({k}) needs {k} training images of each class; the rarest has {fewest}")
        return self._train(_pick(self.y_train, [k] * self.num_classes, seed))

    def max_per_class(self, k: int, seed: int = 0) -> Self:
        """At most k training images of each class, class by class; the test part stays whole."""
        refuse_draws(self.draws)
        if k < 1:
            raise LinftError(f"max_per_class({k}) leaves no training image; give 1 or more of each class")
        return self._train(_pick(self.y_train, [k] * self.num_classes, seed))

    def subset(self, n_train: int, n_test: int | None = None, seed: int = 0) -> Self:
        """n_train training and n_test test images (all by default), shuffled, classes in proportion."""
        refuse_draws(self.draws)
        task = self._train(_proportional(self.y_train, n_train, self.num_classes, seed, "training"))
        if n_test is None:
            return task
        keep = _proportional(self.y_test, n_test, self.num_classes, seed, "test")
        return task.replace(x_test=_take(self.x_test, keep), y_test=self.y_test[keep])

    def holdout(self, fraction: float, seed: int = 0) -> Self:
        """A share of each class's training images as the test part, for validation; the old test part is dropped."""
        refuse_draws(self.draws)
        counts = np.bincount(self.y_train, minlength=self.num_classes)
        held = np.round(fraction * counts).astype(int)
        if not 0 < fraction < 1 or (held < 1).any() or (held >= counts).any():
            raise LinftError(
                f"holdout({fraction}) leaves a class without a training or a held-out image; "
                f"the rarest has {int(counts.min())}"
            )
        test = np.sort(_pick(self.y_train, held.tolist(), seed))
        train = np.setdiff1d(np.arange(len(self.y_train)), test)
        return self._train(train).replace(x_test=_take(self.x_train, test), y_test=self.y_train[test])

    def _train(self, keep: Int[np.ndarray, "k"]) -> Self:
        return self.replace(x_train=_take(self.x_train, keep), y_train=self.y_train[keep])


def _take(images: Any, keep: Int[np.ndarray, "k"]) -> Any:
    if isinstance(images, list):
        return [images[i] for i in keep]
    return images[keep] if isinstance(images, np.ndarray) else images.take(keep)


def _pick(labels: Int[np.ndarray, "n"], counts: Sequence[int], seed: int) -> Int[np.ndarray, "k"]:
    """Indices of counts[c] images of every class c, drawn without replacement, class by class."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    return np.concatenate([order[labels[order] == c][:k] for c, k in enumerate(counts)])


def _proportional(labels: Int[np.ndarray, "n"], n: int, classes: int, seed: int, part: str) -> Int[np.ndarray, "k"]:
    if not 1 <= n <= len(labels):
        raise LinftError(f"a subset of {n} {part} images was asked for; there are {len(labels)}")
    share = np.bincount(labels, minlength=classes) * n / len(labels)
    counts = np.floor(share).astype(int)
    counts[np.argsort(counts - share, kind="stable")[: n - counts.sum()]] += 1  # largest remainders
    return np.random.default_rng([seed, 1]).permutation(_pick(labels, counts.tolist(), seed))


def _images(images: Any, name: str) -> Any:
    if isinstance(images, list | tuple):
        images = [_images(np.asarray(image)[None], name)[0] for image in images]
        return np.stack(images) if len({image.shape for image in images}) == 1 else images
    if isinstance(images, Sequence):  # which reads its images when they are asked for
        _images(images[0][None], name)
        return images
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise LinftError(f"{name} is {images.dtype}; images must be uint8, from 0 to 255")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape[1:]:
        raise LinftError(f"{name} has shape {images.shape}; it must be [n h w], [n h w 1] or [n h w 3]")
    return images


def _labels(labels: Any, name: str) -> Int[np.ndarray, "n"]:
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise LinftError(f"{name} is {labels.dtype}{list(labels.shape)}; labels must be whole numbers [n]")
    if len(labels) == 0:
        raise LinftError(f"{name} is empty; give at least one image a class")
    if labels.min() < 0:
        raise LinftError(f"{name} has a label {labels.min()}; labels count from 0")
    if labels.max() > np.iinfo(np.int64).max:
        raise LinftError(f"{name} has a label {labels.max()}; labels must run from 0 without a gap")
    return labels.astype(np.int64)


def _same_length(images: Any, labels: Int[np.ndarray, "n"], part: str) -> None:
    if len(images) != len(labels):
        raise LinftError(f"the {part} part has {len(images)} images and {len(labels)} labels")


def _check_classes(labels: Int[np.ndarray, "n"], classes: int) -> None:
    present = np.unique(labels)
    if present[-1] >= classes:
        raise LinftError(f"y_train has label {present[-1]}, but there are {classes} class names")
    if classes < 2:
        raise LinftError("the training images have one class only; a task needs two or more")
    if len(present) < classes:  # of which there may be any number
        gaps = np.setdiff1d(np.arange(min(classes, len(present) + 8)), present).tolist()
        raise LinftError(
            f"no training image has label {', '.join(map(str, gaps[:8]))}; "
            f"labels must run from 0 to {classes - 1} without a gap"
        )
