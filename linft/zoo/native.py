"""Our own files: safetensors with JSON metadata; `save_model` writes them, `read` makes a Model."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from linft import trees
from linft.base import Model
from linft.errors import LinftError
from linft.models import registry
from linft.preprocess import Preprocessing

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


def recognises(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bool:
    """Whether this file is ours."""
    return metadata.get("format") == FORMAT


def read(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], name: str) -> Model:
    """The Model of one of our files."""
    meta = json.loads(metadata["linft"])
    arch = meta["architecture"]
    variables = fill(registry.shapes(arch["name"], meta["num_classes"], arch["options"]), tensors)
    options: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in meta["preprocessing"].items()}
    return registry.build(
        arch["name"],
        meta["num_classes"],
        variables,
        Preprocessing(**options),
        arch["options"],
        name=meta["name"],
        source=meta["source"],
    )


def fill(shapes: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    """The variables of these shapes from tensors by path; every tensor used, every variable filled, or refused."""
    wanted = {trees.path_of(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(shapes)}
    problems = [f"{key} is missing" for key in wanted.keys() - tensors.keys()]
    problems += [f"{key} is unknown" for key in tensors.keys() - wanted.keys()]
    for key in wanted.keys() & tensors.keys():
        if wanted[key].shape != tensors[key].shape:
            problems.append(f"{key} has shape {tensors[key].shape} where {wanted[key].shape} is needed")
        elif not np.isfinite(tensors[key]).all():
            problems.append(f"{key} has values that are not finite")
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise LinftError("the file does not fit the architecture: " + "; ".join(sorted(problems)[:5]) + more)
    return jax.tree_util.tree_map_with_path(lambda p, leaf: jnp.asarray(tensors[trees.path_of(p)], leaf.dtype), shapes)
