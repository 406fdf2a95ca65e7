"""Where in a file a network lies: under the names that training scripts put around its state dict.

A dict within a dict is a prefix of its keys, so `{"state_dict": {"module.conv1.weight": …}}` is the one key
`state_dict.module.conv1.weight`, in a torch file as in any other. No list of such names would be complete
(`model`, `net`, `_orig_mod.module`, `backbone` …): a network is wherever an importer knows the keys.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from linft.core.errors import LinftError
from linft.zoo.importers.importer import Importer
from linft.zoo.tensors import Tensors

# Words in the names of averages over training (Polyak's, exponential, stochastic, a teacher's by its student's).
AVERAGED = {"ema", "swa", "avg", "average", "averaged", "polyak", "shadow", "teacher"}
# Words in the names of what has the keys of weights and is none.
NO_WEIGHTS = {"optimizer", "optimizers", "optim", "opt", "exp", "momentum", "grad", "grads"}
# Which averages of parameters alone leave out.
BUFFER = re.compile(r"(^|\.)(running_mean|running_var|num_batches_tracked)$")

log = logging.getLogger("linft")


class FoundNetwork(NamedTuple):
    """A network in a file."""

    importer: Importer
    tensors: Tensors
    """Its arrays, by the keys that the importer knows."""
    beside: Tensors
    """Layers around it, the nearest: its head may be there."""
    note: str = ""
    """Which of several it is."""


def find(tensors: Tensors, importers: Sequence[Importer]) -> FoundNetwork:
    """The network in a file; of weights and their average, the average, which is said.

    Raises:
      LinftError: no importer knows the keys under any prefix, or several networks are there; with their keys.
    """
    parts = {p: part for p, part in by_prefix(tensors.shapes).items() if not words(p) & NO_WEIGHTS}
    known: dict[str, Importer] = {}
    for prefix, shapes in parts.items():
        part = Tensors(tensors.path, shapes, unread, {} if prefix else tensors.metadata)
        importer = next((importer for importer in importers if importer.architecture(part) is not None), None)
        if importer is not None:
            known[prefix] = importer
    if not known:
        raise LinftError(f"no importer knows the keys of {tensors.path}, such as {some(tensors)}")
    own = {prefix: under(tensors, prefix, outside(parts[prefix], prefix, known)) for prefix in known}
    prefix, note = chosen(own, known, tensors)
    place = own[prefix]
    if not averaged(prefix, tensors):
        place, note = with_average(place, parts, tensors, note)
    if note:
        log.warning("%s: %s", tensors.path, note)
    around = next((found for a in ancestors(prefix) if (found := layers(parts.get(a, {}), a, known))), {})
    return FoundNetwork(known[prefix], place, under(tensors, "", around), note)


def unread(key: str) -> np.ndarray:
    """What is read where keys and shapes tell enough."""
    return np.empty(0)


def by_prefix(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Prefix -> the shapes of the keys that begin with it, by what follows; the empty one has all."""
    parts: dict[str, dict[str, tuple[int, ...]]] = {"": {}}
    for key, shape in shapes.items():
        for end in (0, *(match.end() for match in re.finditer(r"[./]", key))):
            parts.setdefault(key[:end], {})[key[end:]] = shape
    return parts


def chosen(own: Mapping[str, Tensors], known: Mapping[str, Importer], tensors: Tensors) -> tuple[str, str]:
    """The prefix of the one network there is, or of the one average; and what is to be said of it."""
    first, *others = own
    if not others:
        return first, ""
    averages = [prefix for prefix in own if averaged(prefix, tensors)]
    kinds = {str(known[prefix].architecture(part)) for prefix, part in own.items()}
    if len(averages) == 1 and len(kinds) == 1:
        rest = ", ".join(name(prefix) for prefix in own if prefix not in averages)
        return averages[0], f"the averaged weights under {name(averages[0])} are taken, not those under {rest}"
    if all(same(own[first], own[prefix]) for prefix in others):
        return first, ""
    raise LinftError(
        f"{tensors.path} holds {len(own)} networks, under {', '.join(map(name, own))}; "
        "save the state dict of the one that is meant, alone"
    )


def with_average(place: Tensors, parts: Mapping[str, Mapping], tensors: Tensors, note: str) -> tuple[Tensors, str]:
    """A network with the average of its parameters, where one is kept without its batch statistics."""
    needed = {key: shape for key, shape in place.shapes.items() if not BUFFER.search(key)}
    for prefix, shapes in parts.items():
        if averaged(prefix, tensors) and all(shapes.get(key) == shape for key, shape in needed.items()):
            read = lambda key: tensors[prefix + key] if key in shapes else place[key]  # noqa: E731, B023 (returned at once)
            said = f"the averaged weights under {name(prefix)} are taken, with the batch statistics beside them"
            return Tensors(place.path, place.shapes, read), said
    return place, note


def averaged(prefix: str, tensors: Tensors) -> bool:
    """Whether a prefix is that of an average, by its name or by torch's counter beside `module.`."""
    outer = next(ancestors(prefix), None)
    return bool(words(prefix) & AVERAGED) or (outer is not None and f"{outer}n_averaged" in tensors)


def words(prefix: str) -> set[str]:
    """The words of a prefix, whether spelled model_ema or modelEMA."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", prefix)}


def under(tensors: Tensors, prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """The arrays of these keys after a prefix; the metadata is that of the whole file."""
    read: Callable[[str], np.ndarray] = lambda key: tensors[prefix + key]  # noqa: E731
    return Tensors(tensors.path, shapes, read, {} if prefix else tensors.metadata)


def outside(shapes: Mapping[str, tuple[int, ...]], prefix: str, known: Mapping[str, Importer]) -> dict:
    """The shapes under a prefix that are in no network further in."""
    inner = tuple(other for other in known if other.startswith(prefix) and other != prefix)
    return {key: shape for key, shape in shapes.items() if not (prefix + key).startswith(inner)}


def ancestors(prefix: str) -> Iterator[str]:
    """The prefixes that a prefix is within, from the nearest."""
    ends = [match.end() for match in re.finditer(r"[./]", prefix)]
    yield from (prefix[:end] for end in (*reversed(ends[:-1]), 0) if ends)


def layers(shapes: Mapping[str, tuple[int, ...]], prefix: str, known: Mapping[str, Importer]) -> dict:
    """Of the arrays under a prefix and in no network, the layers with a kernel: whole keys and shapes."""
    free = outside(shapes, prefix, known)
    kernels = {key.rpartition(".")[0] for key, shape in free.items() if key.endswith(".weight") and len(shape) > 1}
    return {prefix + key: shape for key, shape in free.items() if key.rpartition(".")[0] in kernels}


def same(a: Tensors, b: Tensors) -> bool:
    """Whether two networks have equal arrays."""
    return a.shapes == b.shapes and all(np.array_equal(a[key], b[key]) for key in a)


def name(prefix: str) -> str:
    """A prefix as people write it."""
    return prefix.rstrip("./") or "no key"


def some(keys: Sequence[str] | Mapping[str, object]) -> str:
    """A few keys, from all over the file, and how many more there are."""
    every = max(1, len(keys) // 5)
    shown = list(keys)[::every][:5]
    more = len(keys) - len(shown)
    return ", ".join(shown) + (f" (and {more} more)" if more else "")
