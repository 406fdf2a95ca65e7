"""`linft.load_model(NAME | PATH.safetensors)`: shipped models by name, and the table of importers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from linft.base import Model
from linft.errors import LinftError
from linft.zoo import akamaster, native

SHIPPED = Path(__file__).parent / "weights"
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".th")


class Importer(NamedTuple):
    """A family of files: whether it is one, and how to make it a Model."""

    recognises: Callable[[Mapping[str, np.ndarray], Mapping[str, str]], bool]
    read: Callable[[Mapping[str, np.ndarray], Mapping[str, str], str], Model]


IMPORTERS = (Importer(native.recognises, native.read), Importer(akamaster.recognises, akamaster.read))


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.safetensors"))


def load_model(name: str | Path) -> Model:
    """A shipped model by its name, or a model from a safetensors file.

    Raises:
      LinftError: no such name or file, a file that is no safetensors (pickles are refused, since
        loading one runs code), no importer that knows its keys, or keys and shapes that do not fit.

    Example:
      >>> load_model("resnet14-cifar10").num_classes
      10
    """
    path = SHIPPED / f"{name}.safetensors" if str(name) in shipped_models() else Path(name)
    if path.suffix in PICKLES:
        raise LinftError(f"{path} is a pickle, and loading one can run any code; convert it to safetensors")
    if not path.is_file():
        raise LinftError(f"no model {str(name)!r}; give a .safetensors file or one of {', '.join(shipped_models())}")
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise LinftError(f"{path} is not a readable safetensors file ({error}); was it cut short?") from None
    for importer in IMPORTERS:
        if importer.recognises(tensors, metadata):
            return importer.read(tensors, metadata, path.stem)
    raise LinftError(f"no importer knows the keys of {path}, such as {', '.join(list(tensors)[:3])}")
