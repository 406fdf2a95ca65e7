"""Options of the kernel that a command predicts with."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Kernel:
    """The kernel of predictions."""

    kernel: Literal["full", "trace", "pseudo"] = "full"
    """Kernel that predictions use."""
    engine: Literal["auto", "layerwise", "neural-tangents"] = "auto"
    """What computes it."""
    kernel_batch: int = 32
    """Images whose activations are in memory at once while it is computed."""
