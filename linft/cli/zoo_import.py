"""`linft zoo import`: bring weights from elsewhere into a zoo."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class ZooImport:
    """Convert weights of timm, torchvision, BiT or the hub to a file of a zoo, with all that is known of them."""

    weights: tyro.conf.Positional[str]
    """hf:OWNER/NAME[@REVISION], a file (.safetensors, .npz, .pth, .ckpt), or a directory with model.safetensors and
    timm's config.json."""
    zoo: Path = Path("zoo")
    """Directory of the zoo, made where there is none."""
    name: str | None = None
    """Name in the zoo; by default that of the repository, file or directory."""
    data: str | None = None
    """Name of the source data set, where the weights do not tell it."""
    dtype: Literal["float32", "float16"] = "float32"
    """Precision of the file."""
    overwrite: bool = False
    """Replace a model of that name."""

    def __call__(self) -> None:
        """Load, convert, write, and print where."""
        import linft
        from linft.cli.table import print_lines
        from linft.zoo.directory import path_of, unused

        model = linft.load_model(self.weights)
        name = self.name or model.name
        path = (path_of if self.overwrite else unused)(self.zoo, name)
        source = {**model.source, **({"data": self.data} if self.data else {})}
        linft.save_model(model.replace(name=name, source=source), path, self.dtype)
        print_lines([f"{name}: {model.num_classes} classes, written to {path}"])
