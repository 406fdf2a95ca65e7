"""Weights of a network that only its user can build again, as plain named tensors in a safetensors file."""

from pathlib import Path

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from linft.core import trees
from linft.core.base import Model
from linft.core.errors import LinftError
from linft.runtime.atomic_files import whole


def save_tensors(model: Model, path: str | Path) -> None:
    """Write params and batch statistics by their paths, `params/head/kernel`; nothing is said of the network.

    Raises:
      LinftError: the file cannot be written.
    """
    with whole(Path(path)) as partial:
        save_file({name: np.ascontiguousarray(value) for name, value in _named(model).items()}, partial)


def load_tensors(model: Model, path: str | Path) -> Model:
    """The model at the weights that `save_tensors` wrote of it.

    Raises:
      LinftError: the file cannot be read, or has tensors of another network.

    Example:
      >>> import linft, tempfile
      >>> model = linft.models.create("cifar_resnet8", 3, jax.random.key(0), width=2)
      >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
      >>> save_tensors(model, path)
      >>> other = linft.models.create("cifar_resnet8", 3, jax.random.key(1), width=2)
      >>> load_tensors(other, path).digest == model.digest
      True
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise LinftError(f"cannot read the weights in {path} ({error}); delete it to compute it again") from None
    needed = _named(model)
    if {name: array.shape for name, array in found.items()} != {name: array.shape for name, array in needed.items()}:
        raise LinftError(f"{path} has tensors of another network than {model.name}; choose another directory")
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.numpy.asarray(found[trees.path_of(path)], leaf.dtype), _variables(model)
    )
    return model.replace(**variables, class_means=None)


def _variables(model: Model) -> dict[str, trees.Tree]:
    return {"params": model.params, "batch_stats": model.batch_stats}


def _named(model: Model) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(_variables(model))
    return {trees.path_of(path): np.asarray(leaf) for path, leaf in leaves}
