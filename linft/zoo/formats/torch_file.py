"""Torch's own files, .pth and .pt: read where torch is installed, and never by running what is in them."""

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from linft.core.errors import LinftError
from linft.zoo.formats.tensors import Tensors


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
