"""`linft zoo import`: bring weights from elsewhere into a zoo."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from linft.cli.options import ZooFileOptions


@dataclass(frozen=True)
class ZooImport:
    """Convert weights of timm, torchvision, BiT or the hub to a file of a zoo, with all that is known of them."""

    weights: tyro.conf.Positional[str]
    """hf:OWNER/NAME[@REVISION], a file (.safetensors, .npz, .pth, .ckpt), or a directory with model.safetensors and
    timm's config.json."""
    data: str | None = None
    """Name of the source data set, where the weights do not tell it."""
    file: Annotated[ZooFileOptions, tyro.conf.OmitArgPrefixes] = ZooFileOptions()

    def __call__(self) -> None:
        """Load, convert, write, and print where."""
        import linft
        from linft.cli.terminal import print_lines

        model = linft.load_model(self.weights)
        source = {**model.source, **({"data": self.data} if self.data else {})}
        model, path = self.file.save(model.replace(source=source))
        print_lines([f"{model.name}: {model.num_classes} classes, written to {path}"])
