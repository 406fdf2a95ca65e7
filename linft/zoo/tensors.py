"""Arrays by name in a file of weights, read one at a time: safetensors, NumPy's archives, torch's own files."""

import argparse
import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from safetensors import SafetensorError, safe_open

from linft.core.errors import LinftError

UNREADABLE = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error)
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


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


def safetensors_file(path: Path) -> Tensors:
    """The arrays and the metadata of a .safetensors file."""
    try:
        file = safe_open(path, "np")
    except (OSError, SafetensorError) as error:
        raise LinftError(f"{path} is not a readable safetensors file ({error}); was it cut short?") from None
    shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    return Tensors(path, shapes, file.get_tensor, file.metadata() or {})


def npz_file(path: Path) -> Tensors:
    """The plain arrays of an archive; nothing in it is unpickled.

    Raises:
      LinftError: it is no archive, or cut short, or holds Python objects.
    """

    def refuse(error: Exception) -> LinftError:
        return LinftError(f"{path} is not a readable .npz file of plain arrays ({error}); was it cut short?")

    def shape(name: str) -> tuple[int, ...]:
        with archive.open(name) as member:
            return HEADERS[npy.read_magic(member)](member)[0]

    def read(key: str) -> np.ndarray:
        try:
            with archive.open(f"{key}.npy") as member:
                return npy.read_array(member, allow_pickle=False)
        except UNREADABLE as error:
            raise refuse(error) from None

    try:
        archive = zipfile.ZipFile(path)
        shapes = {name.removesuffix(".npy"): shape(name) for name in archive.namelist()}
    except UNREADABLE as error:
        raise refuse(error) from None
    return Tensors(path, shapes, read)


def torch_file(path: Path) -> Tensors:
    """The tensors of a torch file, mapped into memory where its format allows.

    What lies in dicts within the dict has keys joined with dots, such as `state_dict.conv1.weight`.

    Raises:
      LinftError: torch is not installed; the file holds more than tensors, which to load can run any
        code, or is cut short; it holds no state dict.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise LinftError(
            f"{path} is a pickle, and loading one can run any code; "
            "install torch, which reads the tensors alone, or convert it to safetensors"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of pickles that it then refuses
            # Files of torch before 1.6 are no zip archives, and cannot be mapped.
            with getattr(torch.serialization, "safe_globals", _nothing_more)(_harmless()):
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        kind = re.search(r"GLOBAL (\S+)", str(error))
        raise LinftError(
            f"{path} is a pickle, and loading one can run any code: it holds more than tensors"
            f"{f' ({kind[1]})' if kind else ''}; "
            "save model.state_dict() alone, or convert it to safetensors"
        ) from None
    except (OSError, EOFError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise LinftError(f"{path} is not a readable torch file ({reason}); was it cut short?") from None
    state = {key: value for key, value in _flat(content, "") if torch.is_tensor(value)}
    if not state:
        held = f"only {', '.join(map(str, content))}" if isinstance(content, Mapping) and content else type(content)
        raise LinftError(f"{path} holds no state dict of tensors ({held}); save model.state_dict()")

    def read(key: str) -> np.ndarray:
        tensor = state[key].detach()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # numpy has no bfloat16

    return Tensors(path, {key: tuple(value.shape) for key, value in state.items()}, read)


def _harmless() -> list[Any]:
    """What training scripts save beside tensors and is made without running anything: options, numbers of NumPy."""
    scalar = np.float64().__reduce__()[0]
    numbers = {type(np.dtype(kind)) for kind in "?bhilqBHILQefd"}
    spellings = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [argparse.Namespace, np.dtype, *numbers, *spellings]


def _nothing_more(_: list[Any]) -> AbstractContextManager:
    """Where torch is too old to be told of more than tensors."""
    return nullcontext()


def _flat(content: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """The values of a dict of dicts, by keys joined with dots."""
    if not isinstance(content, Mapping):
        return
    for key, value in content.items():
        yield f"{prefix}{key}", value
        yield from _flat(value, f"{prefix}{key}.")


def refuse_pickle(path: Path) -> Tensors:
    """No reader takes only the arrays of a general pickle."""
    raise LinftError(f"{path} is a pickle, and loading one can run any code; convert it to safetensors")


READERS: dict[str, Callable[[Path], Tensors]] = {
    ".safetensors": safetensors_file,
    ".npz": npz_file,
    **dict.fromkeys((".pth", ".pt", ".th", ".bin", ".ckpt", ".tar"), torch_file),
    **dict.fromkeys((".pkl", ".pickle"), refuse_pickle),
}


def open_tensors(path: Path) -> Tensors:
    """The arrays of a file, by its suffix.

    Raises:
      LinftError: a file of no known kind, one cut short, or one that only running code could load.
    """
    suffix = path.suffix.lower()
    if suffix not in READERS:
        kinds = ", ".join(suffix for suffix, reader in READERS.items() if reader is not refuse_pickle)
        raise LinftError(f"{path} is of no known kind; weights are read from {kinds}")
    return READERS[suffix](path)
