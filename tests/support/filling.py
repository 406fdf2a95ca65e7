"""A kernel cut into tiles, as an engine gives them; and a process that fills a store with them: run by test_store.py.

python tests/support/filling.py KERNEL STORE MANIFEST MOMENT COUNT

The process says that it is ready, waits for a line, and fills. It kills itself when the moment comes for
the COUNT-th time: `before` or `after` tiles are written, or in their `midst`; at `none` it goes to the end.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from linft.ntk.tiled import manifest, store
from linft.ntk.tiled.tiles import Tile, Work
from linft.ntk.tiled.zarr_array import Chunked

WEIGHTS = {1: (1.0,), 3: (0.5, 0.25, 0.25)}  # of summands that add up without rounding


def cut(
    blocks: dict[str, np.ndarray],
    size: int,
    symmetric: bool = True,
    backwards: bool = False,
    given: list[tuple[str, int, int, int]] | None = None,
) -> Work:
    """The tiles of a known kernel, of `size` images; the second group is computed in three parts.

    Args:
      given: takes the tiles that were asked for and computed.
    """
    first = next(iter(blocks.values()))
    parts = {group: 3 if number == 1 else 1 for number, group in enumerate(blocks)}

    def along(n: int) -> tuple[slice, ...]:
        return tuple(slice(start, min(start + size, n)) for start in range(0, n, size))

    rows, columns = along(first.shape[0]), along(first.shape[first.ndim // 2])

    def tiles(wanted: Callable[[str, int, int, int], bool]) -> Iterator[Tile]:
        order = [
            (group, part, i, j)
            for i in range(len(rows))
            for j in range(i + 1 if symmetric else len(columns))
            for group, count in parts.items()
            for part in range(count)
        ]
        for group, part, i, j in reversed(order) if backwards else order:
            if wanted(group, part, i, j):
                if given is not None:
                    given.append((group, part, i, j))
                block = blocks[group]
                tile = block[rows[i], :, columns[j]] if block.ndim == 4 else block[rows[i], columns[j]]
                yield Tile(group, part, i, j, tile * np.asarray(WEIGHTS[parts[group]][part], tile.dtype))

    outputs, k = ("full", first.shape[1]) if first.ndim == 4 else ("trace", None)
    return Work(tuple(blocks), parts, rows, columns, symmetric, first.dtype, outputs, k, "layerwise", tiles)


def kill_at(moment: str, count: int) -> None:
    """Let this process kill itself in the COUNT-th writing of tiles."""
    write, came = Chunked.write, 0

    def writing(array: Chunked, blocks: dict) -> None:
        nonlocal came
        came += 1
        if came < count:
            return write(array, blocks)
        if moment == "midst":
            started = [array._array[array._index(*place)].write(block) for place, block in blocks.items()]
            assert started  # and not waited for
        elif moment == "after":
            write(array, blocks)
        os.kill(os.getpid(), signal.SIGKILL)

    Chunked.write = writing


if __name__ == "__main__":
    kernel, path, described, moment, count = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
    with np.load(kernel) as arrays:
        blocks = dict(arrays)
    print("ready", flush=True)
    backwards = sys.stdin.readline() == "backwards\n"
    if moment != "none":
        kill_at(moment, count)
    manifest.claim(path, json.loads(Path(described).read_text()))
    store.fill(path, "train", cut(blocks, 5, backwards=backwards))
