"""The passes over the layers in which a kernel is computed, and its tiles, so that they stay within memory.

The Jacobians of all images are held while their products are taken, so that each is computed once.
Where they do not fit, the layers are streamed: a pass holds the Jacobians of some layers only, and
the kernel is the sum over passes. Each pass repeats the forward pass and the backward pass down to
its layers, no weight gradient twice. Where even one layer's do not fit, blocks of images are held
against which those of the others are computed again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
from jaxtyping import Array

from linft.core import trees
from linft.core.base import Model
from linft.core.errors import LinftError
from linft.ntk.engine import How
from linft.ntk.layerwise.follow import Plan
from linft.ntk.layerwise.plan import Layer
from linft.ntk.layerwise.sharded import memories
from linft.ntk.primitives.network import TracedNetwork
from linft.ntk.tiled import memory
from linft.ntk.tiled.memory import GIB
from linft.runtime import multihost

TILE = 256
"""Images in a block, unless memory is short: products of this size run at the machine's full rate. Half as many on an
accelerator, which has no symmetric product: of two blocks it leaves out one of four."""


@dataclass(frozen=True)
class Pass:
    """The parameters whose Jacobians are held at a time."""

    labels: dict[str, str]
    """Group by parameter path."""
    keeps: bool
    """Whether the Jacobians of all images are held, or those of two blocks of images."""


def one_pass(model: Model, x: Array, labels: Mapping[str, str], how: How, k: int) -> tuple[tuple[Pass, ...], int]:
    """All parameters at once, as neural-tangents takes them, and how many images a block has.

    Args:
      labels: group by parameter path.
      k: outputs that are differentiated.
    """
    tile = how.tile or min(how.batch_size, len(x))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    needs = {"Jacobians": 2 * x.dtype.itemsize * tile * k * parameters}
    memory.check(needs, memory.budget(how.memory), "use a smaller batch_size or tile, or more memory")
    return (Pass(dict(labels), True),), tile


def passes_of(
    plan: Plan,
    model: Model,
    x: Array,
    tests: int,
    labels: Mapping[str, str],
    how: How,
    k: int,
    size: int,
    reserve: int,
) -> tuple[tuple[Pass, ...], int]:
    """Passes over the layers, and how many images a block has.

    Args:
      x: the training images.
      tests: how many images are held against them.
      labels: group by parameter path.
      k: outputs that are differentiated.
      size: images in a batch.
      reserve: bytes that the kernels themselves will take.

    Raises:
      LinftError: too little memory.
    """
    item = x.dtype.itemsize
    among = memories(how.mesh)
    batch = batch_bytes(plan, item, size // among, k)
    budget = multihost.least(how.mesh, memory.budget(how.memory))
    if reserve:
        memory.check({"blocks": reserve}, budget, 'use fewer images, fewer groups or outputs="trace"')
    memory.check({"one batch": batch}, budget - reserve, "use a smaller batch_size or more memory")
    room = (budget - batch - reserve) * among
    held = 2 if how.precision == "bfloat16" else item
    leaves = {trees.path_of(path): leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(model.params)}
    if isinstance(plan, TracedNetwork):
        head, units = plan.head, plan.units(labels)
    else:
        head = frozenset(path for path in labels if path.startswith(model.head + "/"))
        units = _units(plan, labels, head)
    of_head = max(trees.get(model.params, model.head)["kernel"].shape)
    bytes_of = {path: held * (of_head if path in head else k * leaves[path]) for path in labels}
    largest = max(sum(bytes_of[path] for path in unit) for unit in units)
    most = TILE if jax.default_backend() == "cpu" else TILE // 2
    tile = how.tile or min(most, len(x), max(1, (room // largest - size) // 2))
    sizes = (bytes_of, len(x) + min(TILE, tests) + size, 2 * tile + size, room)
    if how.passes is not None:
        return again(how.passes, labels, *sizes), tile
    return divide(units, *sizes), tile


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


def batch_bytes(plan: Plan, item: int, size: int, k: int) -> int:
    """About what a batch takes while it is differentiated: layer inputs, and gradients for k outputs."""
    kept = plan.numbers if isinstance(plan, TracedNetwork) else sum(math.prod(layer.output.shape) for layer in plan)
    return 2 * item * size * (k + 1) * kept


def _units(layers: tuple[Layer, ...], labels: Mapping[str, str], head: frozenset[str]) -> list[dict[str, str]]:
    """Labels of the parameters that are computed together: a layer and the norm on its output."""
    units: list[dict[str, str]] = []
    where: dict[str, int] = {}
    for layer in layers:
        if layer.path in where:  # called again
            continue
        own = {path: group for path, group in labels.items() if path.rpartition("/")[0] == layer.path}
        if layer.normalizes is not None:
            where[layer.path] = where[layers[layer.normalizes].path]
            units[where[layer.path]] |= own
        else:
            where[layer.path] = len(units)
            units.append(own)
    units.append({path: group for path, group in labels.items() if path in head})
    return [unit for unit in units if unit]
