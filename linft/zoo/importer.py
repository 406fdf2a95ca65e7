"""What an importer is: a family of files, told by its keys, and where each of its arrays goes in a model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linft import trees
from linft.base import Model
from linft.errors import LinftError
from linft.models import norm, registry
from linft.preprocess import Preprocessing
from linft.zoo.tensors import Tensors

NORM_LEAVES = {
    "weight": "params/{}/scale",
    "bias": "params/{}/bias",
    "running_mean": "batch_stats/{}/mean",
    "running_var": "batch_stats/{}/var",
}


class Importer(NamedTuple):
    """A family of files."""

    architecture: Callable[[Tensors], tuple[str, dict[str, Any]] | None]
    """Name and options in the registry, read off the keys and shapes; None for another family's file."""
    path: Callable[[str], str | None]
    """Our path of a key, such as params/stem/conv/kernel; None for a key that holds nothing of ours."""
    layout: Callable[[np.ndarray], np.ndarray]
    """An array as Flax has it."""
    about: Callable[[Tensors], dict[str, Any]]
    """What else the file tells: preprocessing, source, name."""


def torch_path(module: Callable[[str], str]) -> Callable[[str], str | None]:
    """`Importer.path` of a torch state dict, from torch's module names to ours (norms are ours when named so)."""

    def path(key: str) -> str | None:
        name, _, leaf = key.rpartition(".")
        if leaf == "num_batches_tracked":
            return None
        ours = module(name)
        if norm.NAME.search(ours):
            return NORM_LEAVES.get(leaf, "params/{}/" + leaf).format(ours)
        return f"params/{ours}/{'kernel' if leaf == 'weight' else leaf}"

    return path


def torch_layout(array: np.ndarray) -> np.ndarray:
    """Convolutions out×in×h×w become h×w×in×out, linear layers are transposed."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def read(importer: Importer, tensors: Tensors, name: str) -> Model | None:
    """The Model of a file, or None where it is of another family."""
    found = importer.architecture(tensors)
    if found is None:
        return None
    arch, options = found
    keys = {path: key for key in tensors if (path := importer.path(key)) is not None}
    head = f"params/{registry.architecture(arch).head}/kernel"
    if head not in keys:
        raise LinftError(
            f"{tensors.path} looks like {arch} without its head ({head}); save it with the classifier that it was "
            "pretrained with (in timm without num_classes=0), and give it other classes by model.with_head(…)"
        )
    num_classes = importer.layout(tensors[keys[head]]).shape[-1]
    row = registry.architecture(arch)
    fields = {"name": name, "preprocessing": row.preprocessing, **importer.about(tensors)}
    channels = input_channels(tensors, keys.get(f"params/{row.first}"), importer.layout)
    fields["preprocessing"] = of_channels(channels, fields["preprocessing"], tensors.path)
    variables = fill(registry.shapes(arch, num_classes, options, channels), tensors, keys, importer.layout)
    return registry.build(arch, num_classes, variables, options=options, **fields)


def input_channels(tensors: Tensors, first: str | None, layout: Callable[[np.ndarray], np.ndarray]) -> int:
    """Of the images, by the kernel that they come to; three where that is missing or no kernel, as will be told."""
    shape = layout(tensors[first]).shape if first is not None else ()
    return shape[-2] if len(shape) == 4 else 3


def of_channels(channels: int, preprocessing: Preprocessing, path: Path) -> Preprocessing:
    """Preprocessing for as many channels as the first kernel has: one instead of three needs other numbers."""
    if channels == preprocessing.input_size[2]:
        return preprocessing
    if channels == 1:
        return preprocessing.grey()
    raise LinftError(
        f"{path} takes images of {channels} channels and is said to need {preprocessing.input_size[2]}; "
        "it must be 1 (grey) or 3 (RGB), the same in both"
    )


def fill(shapes: Any, tensors: Tensors, keys: dict[str, str], layout: Callable[[np.ndarray], np.ndarray]) -> Any:
    """The variables of these shapes; every tensor used, every variable filled, one in memory at a time; or refused."""
    wanted = {trees.path_of(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(shapes)}
    problems = [f"{path} is missing" for path in wanted.keys() - keys.keys()]
    problems += [f"{path} is unknown" for path in keys.keys() - wanted.keys()]
    filled: dict[str, jax.Array] = {}
    for path in sorted(wanted.keys() & keys.keys()):
        array, shape = layout(tensors[keys[path]]), wanted[path].shape
        if len(shape) == 2 and array.shape[:-2] == (1, 1):  # a 1×1 convolution in place of a linear layer
            array = array[0, 0]
        if array.shape != shape:
            problems.append(f"{path} has shape {array.shape} where {shape} is needed")
        elif not np.isfinite(array).all():
            problems.append(f"{path} has values that are not finite")
        elif not problems:
            filled[path] = jnp.asarray(array, wanted[path].dtype)
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise LinftError("the file does not fit the architecture: " + "; ".join(sorted(problems)[:5]) + more)
    return jax.tree_util.tree_map_with_path(lambda p, leaf: filled[trees.path_of(p)], shapes)
