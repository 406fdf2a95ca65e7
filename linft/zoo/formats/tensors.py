"""Arrays by name in a file, read one at a time."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Tensors(Mapping[str, np.ndarray]):
    """A mapping from key to array, which reads an array when it is asked for."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    """Shape of every key, known without reading the arrays."""
    read: Callable[[str], np.ndarray]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, key: str) -> np.ndarray:
        return self.read(key)

    def __contains__(self, key: object) -> bool:  # the inherited one would read the array
        return key in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)
