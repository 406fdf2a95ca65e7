"""Torch's own files, .pth and .pt: read where torch is installed, and never by running what is in them."""

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from linft.errors import LinftError
from linft.zoo.tensors import Tensors

WRAPPERS = ("state_dict", "model")


def torch_file(path: Path) -> Tensors:
    """The state dict of a torch file, mapped into memory where its format allows.

    A dict with the state dict under `state_dict` or `model` is opened, and the `module.` before every
    key that data-parallel training leaves is dropped.

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
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise LinftError(
            f"{path} is a pickle, and loading one can run any code: it holds more than tensors; "
            "save model.state_dict() alone, or convert it to safetensors"
        ) from None
    except (OSError, EOFError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise LinftError(f"{path} is not a readable torch file ({reason}); was it cut short?") from None
    state = _state_dict(content)
    if not state or not all(torch.is_tensor(value) for value in state.values()):
        raise LinftError(f"{path} holds no state dict of tensors; save model.state_dict()")

    def read(key: str) -> np.ndarray:
        tensor = state[key].detach()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # numpy has no bfloat16

    return Tensors(path, {key: tuple(value.shape) for key, value in state.items()}, read)


def _state_dict(content: Any) -> dict[str, Any]:
    """Key -> tensor, out of the wrappings that training scripts put around."""
    for name in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping):
        return {}
    prefix = "module." if all(str(key).startswith("module.") for key in content) else ""
    return {str(key).removeprefix(prefix): value for key, value in content.items()}
