"""Arrays of zarr v3 on disk whose chunks are tiles: a chunk's file that is there is a finished tile.

TensorStore writes a file beside its place, syncs it, renames it, and takes the file system's lock
meanwhile, so that no reader sees half a tile and processes may write side by side. The fill value is
NaN, which no tile equals: a chunk equal to it would not be written.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorstore as ts
from jaxtyping import Float

from linft.core.errors import LinftError

TileBlock = Float[np.ndarray, "r k s k"] | Float[np.ndarray, "r s"]
CHECKSUM_BYTES = 4


@dataclass(frozen=True)
class Chunked:
    """A kernel [n c m c] or [n m] in `root` with a chunk for every tile of [r c s c] or [r s].

    Example:
      >>> import tempfile
      >>> array = Chunked(Path(tempfile.mkdtemp()), "train/head", (3, 3), (2, 2), "float32")
      >>> array.write({(1, 0): np.ones((1, 2), np.float32)})
      >>> array.has(1, 0), array.missing(), array.read(1, 0)
      (True, 3, array([[1., 1.]], dtype=float32))
    """

    root: Path
    """The outermost group: the store."""
    name: str
    """Names of groups and of the array, parted by slashes."""
    shape: tuple[int, ...]
    tile: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Size of the whole array in memory."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def places(self) -> list[tuple[int, int]]:
        """Row and column of every tile."""
        rows, columns = (math.ceil(self.shape[axis] / self.tile[axis]) for axis in (0, len(self.shape) // 2))
        return [(i, j) for i in range(rows) for j in range(columns)]

    def missing(self) -> int:
        """How many tiles are not there."""
        return sum(not self.has(i, j) for i, j in self.places())

    def has(self, i: int, j: int) -> bool:
        """Whether a tile is on disk, as long as it must be; chunks at the edge are of full length too."""
        size = math.prod(self.tile) * np.dtype(self.dtype).itemsize + CHECKSUM_BYTES
        try:
            return (self.root / self.name / self._file(i, j)).stat().st_size == size
        except OSError:
            return False

    def write(self, blocks: Mapping[tuple[int, int], TileBlock]) -> None:
        """Write tiles at once.

        Raises:
          LinftError: the disk is full or may not be written to.
        """
        for (i, j), block in blocks.items():  # TensorStore would repeat a smaller one
            assert block.shape == self._array[self._index(i, j)].shape
        with writing(self.root):
            for written in [self._array[self._index(*place)].write(block) for place, block in blocks.items()]:
                written.result()

    def read(self, i: int, j: int) -> TileBlock:
        """One tile; NaN where it is not there.

        Raises:
          LinftError: the tile's file is damaged.
        """
        return self._read(self._index(i, j))

    def read_all(self) -> TileBlock:
        """The whole array; errors as of `read`."""
        return self._read(())

    def _read(self, index: tuple) -> TileBlock:
        try:
            return np.asarray(self._array[index].read().result())
        except (OSError, ValueError) as error:
            file = re.search(rf"{re.escape(str(self.root))}[^\"]*", str(error))
            what = file[0] if file else self.root / self.name
            raise LinftError(
                f"{what} is damaged or cannot be read ({_reason(error)}); delete it and resume, to compute it again"
            ) from None

    def _file(self, i: int, j: int) -> str:
        return f"c.{i}.{j}" if len(self.shape) == 2 else f"c.{i}.0.{j}.0"

    def _index(self, i: int, j: int) -> tuple[slice, ...]:
        last = len(self.shape) // 2
        starts = [0] * len(self.shape)
        starts[0], starts[last] = i * self.tile[0], j * self.tile[last]
        return tuple(slice(a, min(a + t, n)) for a, t, n in zip(starts, self.tile, self.shape, strict=True))

    @cached_property
    def _array(self) -> ts.TensorStore:
        names = ("row", "column") if len(self.shape) == 2 else ("row", "row_logit", "column", "column_logit")
        metadata = {
            "shape": self.shape,
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": self.tile}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "fill_value": "NaN",
            "dimension_names": names,
        }
        make_group(self.root, *[str(parent) for parent in list(Path(self.name).parents)[:-1]])
        kvstore = {"driver": "file", "path": f"{self.root / self.name}/"}
        spec = {"driver": "zarr3", "kvstore": kvstore, "metadata": metadata}
        with writing(self.root):
            return ts.open(spec, open=True, create=True).result()


def make_group(root: Path, *names: str, attributes: Mapping[str, object] | None = None) -> None:
    """Make groups in a store where they are not there yet; of two processes at once the first one does."""
    content = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes or {})}
    with writing(root):
        files = ts.KvStore.open({"driver": "file", "path": f"{root}/"}).result()
        for name in names:
            key = f"{name}/zarr.json".removeprefix("./")
            found = files.read(key).result()
            if found.state == "missing":
                text = json.dumps(content, indent=1, ensure_ascii=False)
                files.write(key, text, if_equal=found.stamp.generation).result()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the block as one line about the store."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise LinftError(
            f"cannot write {path} ({_reason(error)}); free some space or choose another directory; "
            "finished tiles are kept, and --resume goes on from them"
        ) from None


def _reason(error: Exception) -> str:
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else str(error).split(" [")[0].rpartition('": ')[2]
