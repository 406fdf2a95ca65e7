"""A kernel cut into tiles, any of which can be asked for: what a store or an array is filled from.

The Jacobians of every image are computed once, in passes that fit into memory (`passes`), and the
tiles are products of those of two blocks of images.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from linft.core import trees
from linft.core.base import Model, Outputs
from linft.core.errors import no_derivative
from linft.ntk import engine
from linft.ntk.engine import How, Name
from linft.ntk.layerwise import plan
from linft.ntk.layerwise.sharded import memories
from linft.ntk.tiled import batching, memory, schedule
from linft.runtime import multihost
from linft.runtime.progress import Count

log = logging.getLogger("linft")

Wanted = Callable[[str, int, int, int], bool]
"""Whether the tile (group, part, i, j) is wanted."""
TILE = 256
"""Images in a block, unless memory is short: products of this size run at the machine's full rate. Half as many on an
accelerator, which has no symmetric product: of two blocks it leaves out one of four."""


class Tile(NamedTuple):
    """One block of the kernel of a group, or of one summand of it."""

    group: str
    part: int
    i: int
    j: int
    block: np.ndarray
    """[r k s k] for full, [r s] for trace and pseudo."""


@dataclass(frozen=True)
class Work:
    """A kernel whose tiles can be computed."""

    groups: tuple[str, ...]
    parts: dict[str, int]
    """How many summands the kernel of a group is computed in: the passes with parameters of it."""
    rows: tuple[slice, ...]
    columns: tuple[slice, ...]
    symmetric: bool
    dtype: Any
    outputs: Outputs
    k: int | None
    """Logits on either side of a full kernel."""
    engine: Name
    tiles: Callable[[Wanted], Iterator[Tile]] = field(repr=False)
    """Every tile that is wanted, once; j ≤ i where symmetric."""
    mesh: Mesh | None = None
    """The devices that compute each tile together: all of their hosts must want the same. None: one host's."""
    passes: tuple[tuple[str, ...], ...] = ()
    """Parameter paths of every pass over the layers, from which the summands come."""


def works(
    model: Model,
    x_train: Float[Array, "n h w ch"],
    x_test: Float[Array, "m h w ch"] | None,
    labels: Mapping[str, str],
    how: How,
    progress: Count | None = None,
    reserve: int = 0,
) -> tuple[Work, Work | None]:
    """The train × train and the test × train kernels, which share the Jacobians of the training images.

    Args:
      model: its batch norm is frozen.
      x_train, x_test: preprocessed images.
      labels: the group of every parameter path that is asked for.
      how: outputs, engine, precision, and what memory may be used.
      progress: called with (examples done, examples in all).
      reserve: bytes of that memory that the kernels themselves will take.

    Raises:
      LinftError: too little memory, parameters that the layerwise engine does not cover; and as tiles are
        computed, values that are not finite or a failed self-check.
    """
    name, layers = engine.choose(how.engine, model, x_train)
    cotangents = engine.directions(how, model.num_classes, x_train.dtype)
    mesh = None if layers is None else how.mesh
    devices = 1 if mesh is None else mesh.size
    size = devices * batching.size_for(math.ceil(len(x_train) / devices), how.batch_size)
    if layers is None:
        divided, tile = _undivided(model, x_train, labels, how, len(cotangents))
        engines = [engine.of_package(model, labels, cotangents, how)]
    else:
        beside = 0 if x_test is None else min(TILE, len(x_test))
        divided, tile = _divided(layers, model, x_train, beside, labels, how, len(cotangents), size, reserve)
        engines = [engine.of_layers(model, layers, chosen.labels, cotangents, how, labels) for chosen in divided]
    if tile < len(x_train):  # each block in equal batches
        size = devices * batching.size_for(math.ceil(tile / devices), how.batch_size)
    if len(divided) > 1:
        log.info("the kernel is computed in %d passes over the layers, to stay within its memory", len(divided))
    tell = counter(progress, len(divided) * (len(x_train) + (0 if x_test is None else len(x_test))))
    groups = dict.fromkeys(labels.values())
    parts = {g: sum(g in chosen.labels.values() for chosen in divided) for g in groups}
    held: dict[tuple[int, int], Any] = {}  # (pass, block of training images) -> their Jacobians

    def columns_of(number: int) -> Callable[..., Any]:
        """The Jacobians of a block of training images in a pass, kept where all of them fit."""
        for other in [key for key in held if key[0] != number]:
            del held[other]

        def column(j: int, tell: Callable[[int], None] = lambda n: None) -> Any:
            if (number, j) in held:
                return held[number, j]
            found = engine.held(engines[number], x_train[_blocks(len(x_train), tile)[j]], size, tell)
            if divided[number].keeps:
                held[number, j] = found
            return found

        return column

    def work(x: Array, symmetric: bool) -> Work:
        rows, columns = _blocks(len(x), tile), _blocks(len(x_train), tile)

        def tiles(wanted: Wanted) -> Iterator[Tile]:
            begun = dict.fromkeys(groups, 0)
            for number, chosen in enumerate(divided):
                part = {g: begun[g] for g in dict.fromkeys(chosen.labels.values())}
                begun |= {g: n + 1 for g, n in part.items()}
                column, checked = columns_of(number), False
                for i, row in enumerate(rows):
                    last = i + 1 if symmetric else len(columns)
                    ours = [j for j in range(last) if any(wanted(g, n, i, j) for g, n in part.items())]
                    if not ours:
                        tell(row.stop - row.start)
                        continue
                    left = column(i, tell) if symmetric else engine.held(engines[number], x[row], size, tell)
                    for j in ours:
                        same = symmetric and i == j
                        blocks = engines[number].between(left, left if same else column(j))
                        refuse_not_finite(blocks, row.start, columns[j].start)
                        if not checked:
                            engines[number].check(blocks, x[row], None if same else x_train[columns[j]])
                            checked = True
                        for group, block in blocks.items():
                            if wanted(group, part[group], i, j):
                                yield Tile(group, part[group], i, j, block)
            if x_test is None or not symmetric:
                held.clear()  # nothing more is to come, and the kernel may be copied to the device

        dtype, k = np.dtype(how.sums or x_train.dtype), len(cotangents) if how.outputs == "full" else None
        paths = tuple(tuple(chosen.labels) for chosen in divided)
        return Work(tuple(groups), parts, rows, columns, symmetric, dtype, how.outputs, k, name, tiles, mesh, paths)

    return work(x_train, True), None if x_test is None else work(x_test, False)


def counter(progress: Count | None, total: int) -> Callable[[int], None]:
    """A function that is told of images done, and passes on how many of all are."""
    done = 0

    def tell(images: int) -> None:
        nonlocal done
        done = min(done + images, total)
        if progress is not None:
            progress(done, total)

    return tell


def _blocks(n: int, tile: int) -> tuple[slice, ...]:
    return tuple(slice(start, min(start + tile, n)) for start in range(0, n, tile))


def refuse_not_finite(blocks: Mapping[str, np.ndarray], row: int, column: int) -> None:
    """Refuse a kernel with values that are not, naming the image, of those from `row` and `column` on.

    An image whose Jacobian is not finite leaves a row or a column that is not, and one value in every other.
    """
    for group, block in blocks.items():
        wrong = ~np.isfinite(block)
        if not wrong.any():
            continue
        pairs = wrong if wrong.ndim == 2 else wrong.any((1, 3))
        rows, columns = pairs.mean(1), pairs.mean(0)
        if (rows.max(), -np.sum(rows == 1)) >= (columns.max(), -np.sum(columns == 1)):
            raise no_derivative(f"the kernel of {group}", row + int(rows.argmax()))
        raise no_derivative(f"the kernel of {group}, among its columns,", column + int(columns.argmax()))


def _undivided(
    model: Model, x: Array, labels: Mapping[str, str], how: How, k: int
) -> tuple[tuple[schedule.Pass, ...], int]:
    tile = how.tile or min(how.batch_size, len(x))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    needs = {"Jacobians": 2 * x.dtype.itemsize * tile * k * parameters}
    memory.check(needs, memory.budget(how.memory), "use a smaller batch_size or tile, or more memory")
    return (schedule.Pass(dict(labels), True),), tile


def _divided(
    layers: tuple[plan.Layer, ...],
    model: Model,
    x: Array,
    beside: int,
    labels: Mapping[str, str],
    how: How,
    k: int,
    size: int,
    reserve: int,
) -> tuple[tuple[schedule.Pass, ...], int]:
    """Passes over the layers, and how many images a block has."""
    item = x.dtype.itemsize
    among = memories(how.mesh)
    batch = batch_bytes(layers, item, size // among, k)
    budget = multihost.least(how.mesh, memory.budget(how.memory))
    if reserve:
        memory.check({"blocks": reserve}, budget, 'use fewer images, fewer groups or outputs="trace"')
    memory.check({"one batch": batch}, budget - reserve, "use a smaller batch_size or more memory")
    room = (budget - batch - reserve) * among
    held = 2 if how.precision == "bfloat16" else item
    leaves = {trees.path_of(path): leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(model.params)}
    of_head = model.head + "/"
    bytes_of = {p: held * (max(trees.get(model.params, model.head)["kernel"].shape) if p.startswith(of_head)
                           else k * leaves[p]) for p in labels}  # fmt: skip
    units = _units(layers, labels, of_head)
    largest = max(sum(bytes_of[path] for path in unit) for unit in units)
    most = TILE if jax.default_backend() == "cpu" else TILE // 2
    tile = how.tile or min(most, len(x), max(1, (room // largest - size) // 2))
    sizes = (bytes_of, len(x) + beside + size, 2 * tile + size, room)
    if how.passes is not None:
        return schedule.again(how.passes, labels, *sizes), tile
    return schedule.divide(units, *sizes), tile


def batch_bytes(layers: tuple[plan.Layer, ...], item: int, size: int, k: int) -> int:
    """About what a batch takes while it is differentiated: layer inputs, and gradients for k outputs."""
    return 2 * item * size * (k + 1) * sum(math.prod(layer.output.shape) for layer in layers)


def _units(layers: tuple[plan.Layer, ...], labels: Mapping[str, str], of_head: str) -> list[dict[str, str]]:
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
    units.append({path: group for path, group in labels.items() if path.startswith(of_head)})
    return [unit for unit in units if unit]
