"""How a kernel's work is divided so that it stays within a budget of memory.

The Jacobians of all images are held while their products are taken, so that each is computed once.
Where they do not fit, the layers are streamed: a pass holds the Jacobians of some layers only, and
the kernel is the sum over passes. Each pass repeats the forward pass and the backward pass down to
its layers, no weight gradient twice. Where even one layer's do not fit, blocks of images are held
against which those of the others are computed again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from linft.errors import LinftError

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
            if least * size > budget:
                name = next(iter(labels)).rpartition("/")[0]
                raise LinftError(
                    f"the Jacobians of {name} for {least} images, two blocks and a batch, are "
                    f"{least * size / GIB:.1f} GiB and {budget / GIB:.1f} GiB may be used; "
                    "use a smaller tile or batch_size, or more memory"
                )
            passes.append(Pass(dict(labels), False))
            room = 0
        elif size * images <= room:
            passes[-1].labels.update(labels)
            room -= size * images
        else:
            passes.append(Pass(dict(labels), True))
            room = budget - size * images
    return tuple(passes)
