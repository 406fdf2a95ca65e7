"""`linft.load_model(NAME | hf:OWNER/NAME | PATH)`: the table of sources, and the table of importers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from linft.core.base import Model
from linft.core.errors import LinftError
from linft.core.names import printable
from linft.zoo import hub
from linft.zoo.importers import timm, torchvision
from linft.zoo.importers.akamaster import AKAMASTER
from linft.zoo.importers.bit_npz import BIT_NPZ
from linft.zoo.importers.native import NATIVE
from linft.zoo.reading import read
from linft.zoo.tensors import open_tensors
from linft.zoo.wrapping import find

SHIPPED = Path(__file__).parent / "weights"
IMPORTERS = (
    NATIVE,
    AKAMASTER,
    torchvision.RESNET,
    timm.RESNET_V2,
    BIT_NPZ,
    torchvision.DENSENET,
    timm.MOBILENET,
    timm.INCEPTION,
    torchvision.ALEXNET,
)


@dataclass(frozen=True)
class Weights:
    """A file of weights, and what its name tells about it."""

    path: Path
    name: str
    """The model's, where the file does not say."""
    source: Mapping[str, Any] = field(default_factory=dict)


def shipped(name: str) -> Weights | None:
    """A model that comes with the package."""
    return Weights(SHIPPED / f"{name}.safetensors", name) if name in shipped_models() else None


def on_hub(name: str) -> Weights | None:
    """A repository on the Hugging Face hub."""
    if not name.startswith("hf:"):
        return None
    path, commit = hub.fetch(name.removeprefix("hf:"))
    repo = name.partition("@")[0]
    return Weights(path, repo.rpartition("/")[2], {"from": repo, "revision": commit})


def local(name: str) -> Weights | None:
    """A file, or a directory with the two files that timm publishes."""
    path = Path(name).expanduser()
    if path.is_dir() and (path / hub.WEIGHTS).is_file():
        return Weights(path / hub.WEIGHTS, printable(path.resolve().name))
    name = printable(path.stem.removesuffix(".pth"))  # of net.pth.tar, net
    return Weights(path, name) if path.is_file() else None


SOURCES: tuple[Callable[[str], Weights | None], ...] = (shipped, on_hub, local)


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.safetensors"))


def weights_of(name: str) -> Weights:
    """The file that a name of `load_model` leads to.

    Raises:
      LinftError: no such name.
    """
    found = next((found for source in SOURCES if (found := source(name)) is not None), None)
    if found is None:
        raise LinftError(
            f"no model {name!r}; give hf:OWNER/NAME, a file, a directory with {hub.WEIGHTS}, "
            f"or one of {', '.join(shipped_models())}"
        )
    return found


def load_model(name: str | Path) -> Model:
    """A model by its name: a shipped one's, `hf:OWNER/NAME[@REVISION]`, a file's, or a directory's.

    Files are safetensors, NumPy archives, or torch's where torch is installed; a directory has
    `model.safetensors` and timm's `config.json`. Of the hub's models, the commit is kept in `source`. In a
    file the network may lie under any key and prefix; where its averaged weights are there too they are
    taken, and `source["weights"]` says so.

    Raises:
      LinftError: no such name, a file that only running code could load, no importer that knows its
        keys, several networks in it, or keys and shapes that do not fit.

    Example:
      >>> load_model("resnet14-cifar10").num_classes
      10
    """
    found = weights_of(str(name))
    place = find(open_tensors(found.path), IMPORTERS)
    model = read(place, found.name)
    said = {"weights": place.note} if place.note else {}
    return model.replace(source={**model.source, **found.source, **said})
