"""`linft.load_model(NAME | PATH.safetensors)`: shipped models by name, and the table of importers."""

from pathlib import Path

from linft.base import Model
from linft.errors import LinftError
from linft.zoo.akamaster import AKAMASTER
from linft.zoo.importer import read
from linft.zoo.native import NATIVE
from linft.zoo.tensors import open_tensors

SHIPPED = Path(__file__).parent / "weights"
IMPORTERS = (NATIVE, AKAMASTER)


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
    if not path.is_file():
        raise LinftError(f"no model {str(name)!r}; give a .safetensors file or one of {', '.join(shipped_models())}")
    tensors = open_tensors(path)
    for importer in IMPORTERS:
        model = read(importer, tensors, path.stem)
        if model is not None:
            return model
    raise LinftError(f"no importer knows the keys of {path}, such as {', '.join(list(tensors)[:3])}")
