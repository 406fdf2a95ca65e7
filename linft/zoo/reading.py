"""From a network found in a file to a Model: every array at its place, none left over, or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linft.core import trees
from linft.core.base import Model
from linft.core.errors import LinftError
from linft.core.preprocessing import Preprocessing
from linft.models import registry
from linft.zoo.importers.importer import Importer
from linft.zoo.tensors import Tensors
from linft.zoo.wrapping import FoundNetwork, some


def read(place: FoundNetwork, name: str) -> Model:
    """The Model of a network in a file."""
    importer, tensors = place.importer, place.tensors
    found = importer.architecture(tensors)
    assert found is not None
    arch, options = found
    row, keys = registry.architecture(arch), paths(importer, tensors)
    if f"params/{row.head}/kernel" not in keys:
        wanted = {
            trees.path_of(p): leaf.shape for p, leaf in jax.tree.leaves_with_path(registry.shapes(arch, 2, options))
        }
        if keys.keys() <= wanted.keys():
            tensors = joined(tensors, place.beside)
            keys = paths(importer, tensors)
        keys = with_head(keys, f"params/{row.head}", wanted, tensors, importer.layout, arch)
    num_classes = importer.layout(tensors[keys[f"params/{row.head}/kernel"]]).shape[-1]
    fields = {"name": name, "preprocessing": row.preprocessing, **importer.about(tensors)}
    channels = input_channels(tensors, keys.get(f"params/{row.first}"), importer.layout)
    fields["preprocessing"] = of_channels(channels, fields["preprocessing"], tensors.path)
    variables = fill(registry.shapes(arch, num_classes, options, channels), tensors, keys, importer.layout)
    return registry.build(arch, num_classes, variables, options=options, **fields)


def paths(importer: Importer, tensors: Tensors) -> dict[str, str]:
    """Our path -> key of the file."""
    return {path: key for key in tensors if (path := importer.path(key)) is not None}


def joined(tensors: Tensors, beside: Tensors) -> Tensors:
    """Two sets of arrays as one."""
    shapes = {**beside.shapes, **tensors.shapes}
    return Tensors(tensors.path, shapes, lambda key: (tensors if key in tensors else beside)[key], tensors.metadata)


def with_head(
    keys: dict[str, str],
    head: str,
    wanted: dict[str, tuple[int, ...]],
    tensors: Tensors,
    layout: Callable[[np.ndarray], np.ndarray],
    arch: str,
) -> dict[str, str]:
    """Paths and keys with the one layer that is left over as the head, whatever its name (fc.1, last_linear …).

    Raises:
      LinftError: what is left over is not one linear layer on the features; with its keys.
    """
    left = {path: key for path, key in keys.items() if path not in wanted}
    layers = {path.rpartition("/")[0] for path in left}
    renamed = {f"{head}/{path.rpartition('/')[2]}": key for path, key in left.items()}
    if len(layers) == 1 and f"{head}/kernel" in renamed and renamed.keys() <= wanted.keys():
        shape = layout(tensors[renamed[f"{head}/kernel"]]).shape
        if shape[:-1] in (wanted[f"{head}/kernel"][:1], (1, 1, *wanted[f"{head}/kernel"][:1])):
            return {path: key for path, key in keys.items() if path in wanted} | renamed
    others = f"; {some(list(left.values()))} is not one linear layer on its features" if left else ""
    raise LinftError(
        f"{tensors.path} looks like {arch} without its head ({head}/kernel){others}; save it with the classifier that "
        "it was pretrained with (in timm without num_classes=0), and give it other classes by model.with_head(…)"
    )


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
