"""Arrays by name in a file, read one at a time: each kind of file is a row of a table."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from linft.errors import LinftError


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


def safetensors(path: Path) -> Tensors:
    """A .safetensors file, mapped into memory."""
    try:
        file = safe_open(path, "np")
    except SafetensorError as error:
        raise LinftError(f"{path} is not a readable safetensors file ({error}); was it cut short?") from None
    shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    return Tensors(path, shapes, file.get_tensor, file.metadata() or {})


def refuse_pickle(path: Path) -> Tensors:
    """A torch file is a pickle."""
    raise LinftError(f"{path} is a pickle, and loading one can run any code; convert it to safetensors")


READERS: dict[str, Callable[[Path], Tensors]] = {
    ".safetensors": safetensors,
    **dict.fromkeys((".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".th"), refuse_pickle),
}


def open_tensors(path: Path) -> Tensors:
    """The arrays of a file, by its suffix.

    Raises:
      LinftError: a file of no known kind, a pickle, or one cut short.
    """
    if path.suffix not in READERS:
        raise LinftError(f"{path} is of no known kind; weights are read from {', '.join(READERS)}")
    return READERS[path.suffix](path)
