"""What an importer is: a family of files, told by its keys, and where each of its arrays goes in a model."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from linft.models.architectures.layers import NORM_NAME
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
        if NORM_NAME.search(ours):
            return NORM_LEAVES.get(leaf, "params/{}/" + leaf).format(ours)
        return f"params/{ours}/{'kernel' if leaf == 'weight' else leaf}"

    return path


def torch_layout(array: np.ndarray) -> np.ndarray:
    """Convolutions out×in×h×w become h×w×in×out, linear layers are transposed."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def blocks_of(keys: Iterable[str], block: str) -> tuple[int, ...]:
    """The number of blocks in each stage of a residual network; the pattern's groups are the stage and the block."""
    found = {m.groups() for key in keys if (m := re.match(block, key))}
    counts = Counter(stage for stage, _ in found)
    return tuple(counts[stage] for stage in sorted(counts))


def named(names: dict[tuple[int, ...], str], blocks: tuple[int, ...], width: int) -> tuple[str, dict[str, Any]]:
    """The registry's name by the blocks of each stage, and what must be said beside it.

    A depth or width that has no name is told by options of the first network of its kind.
    """
    name = names.get(blocks, next(iter(names.values())))
    return name, ({} if blocks in names else {"blocks": blocks}) | ({} if width == 64 else {"width": width})
