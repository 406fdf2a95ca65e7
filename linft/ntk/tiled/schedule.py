"""How a kernel's work is divided so that it stays within a budget of memory.

The Jacobians of all images are held while their products are taken, so that each is computed once.
Where they do not fit, the layers are streamed: a pass holds the Jacobians of some layers only, and
the kernel is the sum over passes. Each pass repeats the forward pass and the backward pass down to
its layers, no weight gradient twice. Where even one layer's do not fit, blocks of images are held
against which those of the others are computed again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from linft.core.errors import LinftError

GIB = 2**30


@dataclass(frozen=True)
class Pass:
    """The parameters whose Jacobians are held at a time."""

    labels: dict[str, str]
    """Group by parameter path."""
    keeps: bool
    """Whether the Jacobians of all images are held, or those of two blocks of images."""


def divide(
    layers: Sequence[Mapping[str, str]],
    bytes_of: Mapping[str, int],
    images: int,
    least: int,
    budget: int,
) -> tuple[Pass, ...]:
    """Passes over the layers, from the head down, of which each fits into the budget.

    Args:
      layers: labels of the parameters that are computed together, in network order.
      bytes_of: by parameter path, bytes of the Jacobian of one image.
      images: how many are held at once where all of them are, with what is computed against them.
      least: how many are where it has to be few, two blocks and a batch.
      budget: bytes for Jacobians.

    Raises:
      LinftError: even those of one layer are more than the budget.

    Example:
      >>> two = [{"a": "low"}, {"b": "high"}]
      >>> [p.labels for p in divide(two, {"a": 10, "b": 20}, images=100, least=20, budget=2000)]
      [{'b': 'high'}, {'a': 'low'}]
    """
    whole = {path: group for labels in layers for path, group in labels.items()}
    if images * sum(bytes_of[path] for path in whole) <= budget:
        return (Pass(whole, True),)
    passes: list[Pass] = []
    room = 0
    for labels in reversed(layers):
        size = sum(bytes_of[path] for path in labels)
        if images * size > budget:
            _check_room(labels, least, size, budget)
            passes.append(Pass(dict(labels), False))
            room = 0
        elif size * images <= room:
            passes[-1].labels.update(labels)
            room -= size * images
        else:
            passes.append(Pass(dict(labels), True))
            room = budget - size * images
    return tuple(passes)


def again(
    before: Sequence[Sequence[str]],
    labels: Mapping[str, str],
    bytes_of: Mapping[str, int],
    images: int,
    least: int,
    budget: int,
) -> tuple[Pass, ...]:
    """Passes over the same parameters as before, whatever memory there is now, for the same digits.

    Args:
      before: parameter paths of every pass.
      labels: group by parameter path.
      bytes_of, images, least, budget: as of `divide`.

    Raises:
      LinftError: two blocks of a pass are more than the budget.

    Example:
      >>> again([["b"], ["a"]], {"a": "low", "b": "high"}, {"a": 10, "b": 20}, 100, 20, 1000)
      (Pass(labels={'b': 'high'}, keeps=False), Pass(labels={'a': 'low'}, keeps=True))
    """
    passes = []
    for paths in before:
        chosen, size = {path: labels[path] for path in paths}, sum(bytes_of[path] for path in paths)
        if images * size > budget:
            _check_room(chosen, least, size, budget)
        passes.append(Pass(chosen, images * size <= budget))
    return tuple(passes)


def _check_room(labels: Mapping[str, str], least: int, size: int, budget: int) -> None:
    if least * size > budget:
        names = ", ".join(dict.fromkeys(path.rpartition("/")[0] for path in labels))
        raise LinftError(
            f"the Jacobians of {names} for {least} images, two blocks and a batch, are "
            f"{least * size / GIB:.1f} GiB and {budget / GIB:.1f} GiB may be used; "
            "use a smaller tile or batch_size, or more memory"
        )
