"""What a timm `config.json` beside the weights tells: preprocessing, source."""

from typing import Any

from linft.zoo.tensors import Tensors


def about(tensors: Tensors) -> dict[str, Any]:
    """Nothing, where there is no config.json."""
    return {}
