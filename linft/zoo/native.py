"""Our own files: safetensors with JSON metadata; `save_model` writes them, and they have an importer like others."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from linft import trees
from linft.base import Model
from linft.errors import LinftError
from linft.preprocess import Preprocessing
from linft.zoo.importer import Importer
from linft.zoo.tensors import Tensors

FORMAT = "linft-1"


def save_model(model: Model, path: str | Path) -> None:
    """Write params, batch statistics and metadata (architecture, classes, preprocessing, source) to a file.

    Raises:
      LinftError: the model is a user's own module, which a file of ours could not rebuild.
    """
    if model.architecture is None:
        raise LinftError(
            f"{model.name} is not of a registered architecture, so a file could not rebuild it; "
            "save its params with flax.serialization or safetensors"
        )
    variables = {"params": model.params, "batch_stats": model.batch_stats}
    tensors = {trees.path_of(p): np.asarray(v) for p, v in jax.tree_util.tree_leaves_with_path(variables)}
    meta = {
        "name": model.name,
        "architecture": dict(model.architecture),
        "num_classes": model.num_classes,
        "preprocessing": asdict(model.preprocessing),
        "source": dict(model.source),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, {"format": FORMAT, "linft": json.dumps(meta)})
    partial.chmod(0o644)  # safetensors makes it private
    partial.replace(path)


def architecture(tensors: Tensors) -> tuple[str, dict[str, Any]] | None:
    """What the metadata says, where this file is ours."""
    if tensors.metadata.get("format") != FORMAT:
        return None
    found = json.loads(tensors.metadata["linft"])["architecture"]
    return found["name"], found["options"]


def about(tensors: Tensors) -> dict[str, Any]:
    """Name, preprocessing and source."""
    meta = json.loads(tensors.metadata["linft"])
    fields: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in meta["preprocessing"].items()}
    return {"name": meta["name"], "preprocessing": Preprocessing(**fields), "source": meta["source"]}


NATIVE = Importer(architecture, lambda key: key, lambda array: array, about)
