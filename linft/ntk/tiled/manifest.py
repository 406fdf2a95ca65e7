"""The manifest of a stored kernel: all that its values depend on, hashed or named, and compared before going on."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from linft.core.base import Model
from linft.core.errors import LinftError
from linft.core.trees import digest
from linft.ntk.tiled.zarr_array import make_group
from linft.runtime.claims import agree
from linft.runtime.json_files import plain

Manifest = dict[str, Any]
KEY = "linft"  # of the manifest among the attributes of the zarr group


def describe(model: Model, images: Mapping[str, Any], **options: Any) -> Manifest:
    """All that the values of a kernel depend on, as JSON: the model, its images, options, versions and device.

    Args:
      images: the preprocessed images of `train`, and of `test` where they make rows.
      options: outputs, groups, tiles, parts, the seed of random signs, and what else there is.

    Example:
      >>> import linft, jax, numpy as np
      >>> model = linft.models.create("cifar_resnet8", 3, jax.random.key(0), width=2)
      >>> list(describe(model, {"train": np.zeros((2, 8, 8, 3))}, outputs="trace"))[:4]
      ['model', 'train images', 'outputs', 'version of linft']
    """
    content = {
        "model": digest({"params": model.params, "batch_stats": model.batch_stats}),
        **{f"{name} images": digest(x) for name, x in images.items()},
        **options,
        **{f"version of {name}": version(name) for name in ("linft", "jax", "jaxlib", "numpy")},
        "version of python": platform.python_version(),
        "device": f"{jax.default_backend()}: {jax.devices()[0].device_kind}",
    }
    return plain(content)


def claim(path: Path, manifest: Manifest) -> None:
    """Make the store of a kernel, or find there that it was made for this very one; two processes may try at once.

    Raises:
      LinftError: it is of another kernel (naming what differs), or cannot be made.
    """
    make_group(path, ".", attributes={KEY: manifest})
    agree(path, read(path), manifest, "a kernel")


def read(path: Path) -> Manifest:
    """The manifest of a store.

    Raises:
      LinftError: there is no store, or it is not readable.
    """
    try:
        return json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"][KEY]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "its zarr.json is not as `linft kernel` writes it"
        raise LinftError(f"{path} is not a kernel store ({reason}); give one that `linft kernel` made") from None
