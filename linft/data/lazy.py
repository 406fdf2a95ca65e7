"""Images too many for memory: each is read from its file or record when it is asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self, overload

import numpy as np
from jaxtyping import Int, UInt8

IN_MEMORY = 20_000  # images of both parts of a task, up to which they are read at once and kept


@dataclass(frozen=True, eq=False)
class LazyImages(Sequence):
    """A sequence of uint8 images [h w c] of any size; small, and picklable if `read` is.

    Example:
      >>> images = LazyImages(lambda i: np.full((2, 3, 1), i, np.uint8), np.arange(5))
      >>> len(images), images[4].shape, [int(image[0, 0, 0]) for image in images[::2].take(np.array([2, 0]))]
      (5, (2, 3, 1), [4, 0])
    """

    read: Callable[[int], UInt8[np.ndarray, "_ _ _"]]
    """The image of a number; raises `LinftError` where it cannot be read."""
    numbers: Int[np.ndarray, "n"] = field(repr=False)
    """Number of every image of the sequence."""

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int | np.integer) -> UInt8[np.ndarray, "_ _ _"]: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | np.integer | slice) -> UInt8[np.ndarray, "_ _ _"] | Self:
        return self.take(index) if isinstance(index, slice) else self.read(int(self.numbers[index]))

    def take(self, indices: Int[np.ndarray, "k"] | slice) -> Self:
        """The images at these places, in this order; none is read."""
        return type(self)(self.read, self.numbers[indices])
