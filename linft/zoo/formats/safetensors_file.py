"""Files of safetensors, mapped into memory."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from linft.core.errors import LinftError
from linft.zoo.formats.tensors import Tensors


def safetensors_file(path: Path) -> Tensors:
    """The arrays and the metadata of a .safetensors file."""
    try:
        file = safe_open(path, "np")
    except (OSError, SafetensorError) as error:
        raise LinftError(f"{path} is not a readable safetensors file ({error}); was it cut short?") from None
    shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    return Tensors(path, shapes, file.get_tensor, file.metadata() or {})
