"""A kernel cut into tiles, as an engine gives them; and a process that fills a store with them: run by test_store.py.

python tests/filling.py KERNEL STORE MANIFEST MOMENT COUNT

The process says that it is ready, waits for a line, and fills. It kills itself when the moment comes for
the COUNT-th time: `before` or `after` tiles are written, or in their `midst`; at `none` it goes to the end.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

WEIGHTS = {1: (1.0,), 3: (0.5, 0.25, 0.25)}  # of summands that add up without rounding


@dataclass(frozen=True)
class Cut:
    """The tiles of a known kernel; it remembers which ones it was asked for."""

    blocks: dict[str, np.ndarray]
    size: int
    parts: dict[str, int]
    symmetric: bool
    backwards: bool = False
    given: list[tuple[str, int, int, int]] = field(default_factory=list)

    groups = property(lambda self: tuple(self.blocks))
    _first = property(lambda self: next(iter(self.blocks.values())))
    dtype = property(lambda self: self._first.dtype)
    outputs = property(lambda self: "full" if self._first.ndim == 4 else "trace")
    k = property(lambda self: self._first.shape[1] if self._first.ndim == 4 else None)
    rows = property(lambda self: self._along(0))
    columns = property(lambda self: self._along(self._first.ndim // 2))

    def _along(self, axis: int) -> tuple[slice, ...]:
        n = self._first.shape[axis]
        return tuple(slice(a, min(a + self.size, n)) for a in range(0, n, self.size))

    def tiles(self, wanted: Callable[[str, int, int, int], bool]) -> Iterator[tuple[str, int, int, int, np.ndarray]]:
        order = [
            (group, part, i, j)
            for i in range(len(self.rows))
            for j in range(i + 1 if self.symmetric else len(self.columns))
            for group, count in self.parts.items()
            for part in range(count)
        ]
        for group, part, i, j in reversed(order) if self.backwards else order:
            if wanted(group, part, i, j):
                self.given.append((group, part, i, j))
                block = self.blocks[group]
                index = (self.rows[i], self.columns[j])
                tile = block[index[0], :, index[1]] if block.ndim == 4 else block[index]
                yield group, part, i, j, tile * np.asarray(WEIGHTS[self.parts[group]][part], tile.dtype)


def cut(blocks: dict[str, np.ndarray], size: int, symmetric: bool = True, backwards: bool = False) -> Cut:
    """Tiles of `size` images; the second group is computed in three parts."""
    parts = {group: 3 if number == 1 else 1 for number, group in enumerate(blocks)}
    return Cut(blocks, size, parts, symmetric, backwards)


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
    os.environ["JAX_PLATFORMS"] = "cpu"
    from linft.ntk import manifest, store
    from linft.ntk.chunks import Chunked

    kernel, path, described, moment, count = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
    with np.load(kernel) as arrays:
        blocks = dict(arrays)
    print("ready", flush=True)
    backwards = sys.stdin.readline() == "backwards\n"
    if moment != "none":
        kill_at(moment, count)
    manifest.claim(path, json.loads(Path(described).read_text()))
    store.fill(path, "train", cut(blocks, 5, backwards=backwards))
