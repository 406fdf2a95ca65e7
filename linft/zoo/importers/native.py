"""Our own files: safetensors with JSON metadata; `save_model` writes them, and they have an importer like others."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from linft.core import trees
from linft.core.base import ClassMeans, Model
from linft.core.errors import LinftError
from linft.core.preprocessing import Preprocessing
from linft.models import registry
from linft.models.lora import without_adapters
from linft.runtime.atomic_files import whole
from linft.zoo.importers.importer import Importer
from linft.zoo.tensors import Tensors

FORMAT = "linft-1"
SOURCE = "source/"  # what is kept of the source's images, beside params/ and batch_stats/


def save_model(model: Model, path: str | Path, dtype: str = "float32") -> None:
    """Write weights, batch statistics, class means and metadata to a file; adapters as part of their kernels.

    Args:
      dtype: float32, or float16, which halves the file, has 11 bits of precision and ends at 65504.

    Raises:
      LinftError: the model is a user's own module, which a file of ours could not rebuild; a number
        is too large for float16; the file cannot be written.
    """
    model = without_adapters(model)
    if model.architecture is None:
        raise LinftError(
            f"{model.name} is not of a registered architecture, so a file could not rebuild it; "
            "save its params with flax.serialization or safetensors"
        )
    if dtype not in ("float32", "float16"):
        raise LinftError(f"dtype is {dtype!r}; choose float32 or float16")
    variables = {"params": model.params, "batch_stats": model.batch_stats}
    tensors = {trees.path_of(p): _narrowed(trees.path_of(p), v, dtype) for p, v in jax.tree.leaves_with_path(variables)}
    if model.class_means is not None:
        means, counts = model.class_means
        tensors[SOURCE + "class_means"] = _narrowed(SOURCE + "class_means", means, dtype)
        tensors[SOURCE + "class_counts"] = counts.astype(np.int32)
    meta = {
        "name": model.name,
        "architecture": dict(model.architecture),
        "num_classes": model.num_classes,
        "preprocessing": asdict(model.preprocessing),
        "source": dict(model.source),
    }
    with whole(Path(path)) as partial:
        save_file(tensors, partial, {"format": FORMAT, "linft": json.dumps(meta)})


def _narrowed(path: str, array: Any, dtype: str) -> np.ndarray:
    """The array in another precision, if it fits."""
    array = np.asarray(array)
    with np.errstate(over="ignore"):
        narrow = array.astype(dtype)
    if not np.isfinite(narrow).all():
        largest = np.abs(array).max()
        raise LinftError(
            f"{path} has {largest:.3g}, which {dtype} cannot hold; use float32, or check how the model was trained"
        )
    return np.ascontiguousarray(narrow)


def metadata(tensors: Tensors) -> dict[str, Any] | None:
    """The metadata, where this file is ours.

    Raises:
      LinftError: it is damaged, or tells of another number of classes than the head has.
    """
    if tensors.metadata.get("format") != FORMAT:
        return None
    try:
        meta = json.loads(tensors.metadata["linft"])
        arch, classes = meta["architecture"]["name"], meta["num_classes"]
        _ = meta["name"], dict(meta["source"]), meta["architecture"]["options"], preprocessing(meta)
    except (KeyError, TypeError, ValueError) as error:
        raise LinftError(f"{tensors.path} has damaged metadata ({error!r}); write it again with save_model") from None
    head = tensors.shapes.get(f"params/{registry.architecture(arch).head}/kernel")
    if head is not None and head[-1] != classes:
        raise LinftError(
            f"{tensors.path} has a head of {head[-1]} outputs and metadata for {classes} classes; "
            f"give the model its head by model.with_head({classes}, …) and write it with save_model"
        )
    return meta


def preprocessing(meta: dict[str, Any]) -> Preprocessing:
    """Preprocessing as the metadata has it."""
    return Preprocessing(**_tuples(meta["preprocessing"]))


def architecture(tensors: Tensors) -> tuple[str, dict[str, Any]] | None:
    """What the metadata says, where this file is ours."""
    meta = metadata(tensors)
    return None if meta is None else network(meta)


def network(meta: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and options of the network as the metadata has them."""
    return meta["architecture"]["name"], _tuples(meta["architecture"]["options"])


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """With tuples again where JSON has lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}


def about(tensors: Tensors) -> dict[str, Any]:
    """Name, preprocessing, source and class means."""
    meta = metadata(tensors)
    assert meta is not None
    fields = {"name": meta["name"], "preprocessing": preprocessing(meta), "source": meta["source"]}
    means, counts = SOURCE + "class_means", SOURCE + "class_counts"
    if means in tensors and counts in tensors:
        fields["class_means"] = ClassMeans(tensors[means].astype(np.float32), tensors[counts])
    return fields


NATIVE = Importer(architecture, lambda key: None if key.startswith(SOURCE) else key, lambda array: array, about)
