"""Images in their files or records: each is read when it is asked for, or all at once where they fit in memory."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import accumulate
from typing import Any, Literal, Self, overload

import numpy as np
from jaxtyping import Int, UInt8

from linft.core.task import Task
from linft.data.decoding import decode, decoded_bytes

IN_MEMORY = 2**29  # bytes of the decoded images of both parts of a task, up to which they are read at once and kept
HASHED = 256  # images that a thread hashes at once


class Encoded(ABC):
    """Images of which each is decoded from bytes: called with a number, it reads that one."""

    mode: Literal["RGB", "L"] = "RGB"

    @abstractmethod
    def encoded(self, number: int) -> bytes:
        """What the image is decoded from; raises `LinftError` where it cannot be read."""

    @abstractmethod
    def name(self, number: int) -> str:
        """What errors call it."""

    def __call__(self, number: int) -> UInt8[np.ndarray, "h w c"]:
        return decode(self.encoded(number), self.name(number), self.mode)


@dataclass(frozen=True, eq=False)
class LazyImages(Sequence):
    """A sequence of uint8 images [h w c] of any size; small, and picklable if `read` is.

    Example:
      >>> images = LazyImages(lambda i: np.full((2, 3, 1), i, np.uint8), np.arange(5))
      >>> len(images), images[4].shape, [int(image[0, 0, 0]) for image in images[::2].take(np.array([2, 0]))]
      (5, (2, 3, 1), [4, 0])
    """

    read: Callable[[int], UInt8[np.ndarray, "_ _ _"]]
    """The image of a number, perhaps `Encoded`; raises `LinftError` where it cannot be read."""
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

    @cached_property
    def digest(self) -> str:
        """A hash of all images in their order: of the bytes they are decoded from, else of their pixels."""
        with ThreadPoolExecutor() as pool:  # reading and hashing let go of the interpreter
            blocks = pool.map(self._hashes, range(0, len(self), HASHED))
            return sha256(b"".join(blocks)).hexdigest()

    def _hashes(self, first: int) -> bytes:
        numbers = self.numbers[first : first + HASHED].tolist()
        return b"".join(sha256(self._content(number)).digest() for number in numbers)

    def _content(self, number: int) -> bytes:
        if isinstance(self.read, Encoded):
            return self.read.encoded(number)
        image = self.read(number)
        return f"{image.shape}".encode() + image.tobytes()

    def decoded_bytes(self, index: int) -> int:
        """Bytes that an image takes in memory, by its header where it has one."""
        number = int(self.numbers[index])
        if isinstance(self.read, Encoded):
            return decoded_bytes(self.read.encoded(number), self.read.name(number))
        return self.read(number).nbytes


def held(*parts: Any) -> list[Any]:
    """The images of these parts, those in files read at once if all fit in memory; else as they were.

    Only as many headers are looked at as it takes to know.

    Example:
      >>> images = LazyImages(lambda i: np.full((2, 3, 1), i, np.uint8), np.arange(5))
      >>> [type(part).__name__ for part in held(images, images)]
      ['list', 'list']
    """
    lazy = [part for part in parts if isinstance(part, LazyImages)]
    sizes = (part.decoded_bytes(i) for part in lazy for i in range(len(part)))
    if any(total > IN_MEMORY for total in accumulate(sizes)):
        return list(parts)
    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter's lock
        return [
            list(pool.map(part.__getitem__, range(len(part)))) if isinstance(part, LazyImages) else part
            for part in parts
        ]


def in_memory(task: Task) -> Task:
    """The task, with its images read at once if they fit: a sample of one whose images are in files."""
    x_train, x_test = held(task.x_train, task.x_test)
    return task.replace(x_train=x_train, x_test=x_test)
