"""A whole kernel in memory from its tiles."""

import numpy as np

from linft.ntk.layerwise.gram import transposed
from linft.ntk.tiled import memory
from linft.ntk.tiled.tiles import Work


def assemble(work: Work) -> dict[str, np.ndarray]:
    """Every group's kernel, [n k m k] or [n m], both triangles of a symmetric one.

    Raises:
      LinftError: the kernels themselves do not fit into memory; and as `tiles.works`.
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
