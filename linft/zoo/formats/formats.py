"""The table of file formats: a suffix, and what reads its arrays."""

from collections.abc import Callable
from pathlib import Path

from linft.core.errors import LinftError
from linft.zoo.formats.npz_file import npz_file
from linft.zoo.formats.safetensors_file import safetensors_file
from linft.zoo.formats.tensors import Tensors
from linft.zoo.formats.torch_file import torch_file


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
