"""A kernel cut into tiles, any of which can be asked for: a store on disk or an array in memory is filled from them.

The Jacobians of every image are computed once, in passes that fit into memory (`schedule`), and the
tiles are products of those of two blocks of images.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from linft.core.base import Model, Outputs
from linft.core.errors import no_derivative
from linft.core.forward_pass import equal_size
from linft.ntk import engine
from linft.ntk.engine import EngineName, How
from linft.ntk.layerwise.gram import transposed
from linft.ntk.tiled import memory, schedule
from linft.runtime.progress import Count

log = logging.getLogger("linft")

TileWanted = Callable[[str, int, int, int], bool]
"""Whether the tile (group, part, i, j) is wanted."""


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
    engine: EngineName
    tiles: Callable[[TileWanted], Iterator[Tile]] = field(repr=False)
    """Every tile that is wanted, once; j ≤ i where symmetric."""
    mesh: Mesh | None = None
    """The devices that compute each tile together: all of their hosts must want the same. None: one host's."""
    passes: tuple[tuple[str, ...], ...] = ()
    """Parameter paths of every pass over the layers, from which the summands come."""


def cut(
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
      LinftError: too little memory, outputs that depend on other images of a batch; and as tiles are
        computed, values that are not finite or a failed self-check.
    """
    name, plan = engine.choose(how.engine, model, x_train)
    cotangents = engine.directions(how, model.num_classes, x_train.dtype)
    mesh = None if plan is None else how.mesh
    devices = 1 if mesh is None else mesh.size
    size = devices * equal_size(math.ceil(len(x_train) / devices), how.batch_size)
    if plan is None:
        passes, tile = schedule.one_pass(model, x_train, labels, how, len(cotangents))
        backends = [engine.of_package(model, labels, cotangents, how)]
    else:
        tests = 0 if x_test is None else len(x_test)
        passes, tile = schedule.passes_of(plan, model, x_train, tests, labels, how, len(cotangents), size, reserve)
        backends = [engine.of_layers(model, plan, chosen.labels, cotangents, how, labels) for chosen in passes]
    if tile < len(x_train):  # each block in equal batches
        size = devices * equal_size(math.ceil(tile / devices), how.batch_size)
    if len(passes) > 1:
        log.info("the kernel is computed in %d passes over the layers, to stay within its memory", len(passes))
    tell = counter(progress, len(passes) * (len(x_train) + (0 if x_test is None else len(x_test))))
    groups = dict.fromkeys(labels.values())
    parts = {g: sum(g in chosen.labels.values() for chosen in passes) for g in groups}
    held: dict[tuple[int, int], Any] = {}  # (pass, block of training images) -> their Jacobians

    def columns_of(number: int) -> Callable[..., Any]:
        """The Jacobians of a block of training images in a pass, kept where all of them fit."""
        for other in [key for key in held if key[0] != number]:
            del held[other]

        def column(j: int, tell: Callable[[int], None] = lambda n: None) -> Any:
            if (number, j) in held:
                return held[number, j]
            found = engine.held(backends[number], x_train[_blocks(len(x_train), tile)[j]], size, tell)
            if passes[number].keeps:
                held[number, j] = found
            return found

        return column

    def work(x: Array, symmetric: bool) -> Work:
        rows, columns = _blocks(len(x), tile), _blocks(len(x_train), tile)

        def tiles(wanted: TileWanted) -> Iterator[Tile]:
            begun = dict.fromkeys(groups, 0)
            for number, chosen in enumerate(passes):
                part = {g: begun[g] for g in dict.fromkeys(chosen.labels.values())}
                begun |= {g: n + 1 for g, n in part.items()}
                column, checked = columns_of(number), False
                for i, row in enumerate(rows):
                    last = i + 1 if symmetric else len(columns)
                    ours = [j for j in range(last) if any(wanted(g, n, i, j) for g, n in part.items())]
                    if not ours:
                        tell(row.stop - row.start)
                        continue
                    left = column(i, tell) if symmetric else engine.held(backends[number], x[row], size, tell)
                    for j in ours:
                        same = symmetric and i == j
                        blocks = backends[number].between(left, left if same else column(j))
                        refuse_not_finite(blocks, row.start, columns[j].start)
                        if not checked:
                            backends[number].check(blocks, x[row], None if same else x_train[columns[j]])
                            checked = True
                        for group, block in blocks.items():
                            if wanted(group, part[group], i, j):
                                yield Tile(group, part[group], i, j, block)
            if x_test is None or not symmetric:
                held.clear()  # nothing more is to come, and the kernel may be copied to the device

        dtype, k = np.dtype(how.sums or x_train.dtype), len(cotangents) if how.outputs == "full" else None
        paths = tuple(tuple(chosen.labels) for chosen in passes)
        return Work(tuple(groups), parts, rows, columns, symmetric, dtype, how.outputs, k, name, tiles, mesh, paths)

    return work(x_train, True), None if x_test is None else work(x_test, False)


def assemble(work: Work) -> dict[str, np.ndarray]:
    """Every group's kernel, [n k m k] or [n m], both triangles of a symmetric one.

    Raises:
      LinftError: the kernels themselves do not fit into memory; and as `cut`.
    """
    n, m, side = work.rows[-1].stop, work.columns[-1].stop, () if work.k is None else (work.k,)
    shape = (n, *side, m, *side)
    needs = {"blocks": len(work.groups) * int(np.prod(shape)) * work.dtype.itemsize}
    memory.check(needs, memory.budget(None), 'use fewer images, fewer groups or outputs="trace"')
    if len(work.rows) == len(work.columns) == 1 and set(work.parts.values()) == {1}:
        found = {tile.group: tile.block for tile in work.tiles(lambda *_: True)}
        return {group: found[group] for group in work.groups}
    kernels = {group: np.zeros(shape, work.dtype) for group in work.groups}
    for group, _, i, j, block in work.tiles(lambda *_: True):
        place(kernels[group], work.rows[i], work.columns[j], block)
        if work.symmetric and i != j:
            place(kernels[group], work.columns[j], work.rows[i], transposed(block))
    return kernels


def place(kernel: np.ndarray, rows: slice, columns: slice, block: np.ndarray) -> None:
    """Add a block where it belongs."""
    kernel[(rows, slice(None), columns) if kernel.ndim == 4 else (rows, columns)] += block


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
