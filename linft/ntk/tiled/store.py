"""A kernel on disk that is computed tile by tile: killed at any moment, the next call goes on from there.

The store is a zarr v3 group, which any reader of zarr opens:

    K.zarr/zarr.json              the group; its attributes are the manifest
    K.zarr/train/GROUP            [n c n c] or [n n], one chunk a tile
    K.zarr/test/GROUP             [m c n c] or [m n]
    K.zarr/train.parts/GROUP/P    summands of a group that is computed in several parts, until all is there

There is no record of what is finished but the tiles themselves. Of a symmetric kernel the tiles on and
below the diagonal are computed, and both triangles written.
"""

import shutil
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linft.core.base import Kernel, Model
from linft.core.errors import LinftError
from linft.ntk.layerwise.gram import transposed
from linft.ntk.tiled import manifest, memory
from linft.ntk.tiled.tiles import TileWanted, Work
from linft.ntk.tiled.zarr_array import Chunked, TileBlock
from linft.runtime import multihost
from linft.runtime.progress import Count


def begin(
    path: str | Path,
    model: Model,
    x_train: Float[Array, "n h w ch"],
    train: Work,
    x_test: Float[Array, "m h w ch"] | None = None,
    test: Work | None = None,
    *,
    labels: Mapping[str, str],
    **options: Any,
) -> None:
    """Make a store for Θ(train, train) and perhaps Θ(test, train), or go on with one that was made for the same.

    Args:
      labels: the group of every parameter path, as the works were made with.
      options: what else the values depend on, such as seed and draws of random signs, as JSON has it.

    Raises:
      LinftError: the store is of another kernel (naming what differs), or cannot be made.
    """
    groups = {group: sorted(path for path, of in labels.items() if of == group) for group in train.groups}
    images, layout = {"train": x_train}, _layout("train", train)
    if x_test is not None and test is not None:
        images, layout = images | {"test": x_test}, layout | _layout("test", test)
    described = manifest.describe(
        model, images, outputs=train.outputs, engine=train.engine, groups=groups, **layout, **options
    )
    manifest.claim(Path(path), described)


def fill(
    path: str | Path, name: str, work: Work, progress: Count | None = None, share: tuple[int, int] = (0, 1)
) -> None:
    """Compute the tiles that are missing of a begun store's kernel, each on disk as soon as it is there.

    Several processes may fill one store: they do not ask for what another has finished, and a tile
    that two compute is the same. Hosts of one mesh compute what any of them lacks together, each of
    them writing its share. A file that is not as long as its tile is computed anew.

    Args:
      path: a store that `begin` made.
      name: train, the symmetric kernel, or test, test × train.
      share: (k, hosts): of the rows of tiles every one whose number is k modulo the number of hosts.

    Raises:
      LinftError: the tiles are not those of the manifest, values are not finite, a file is damaged, the
        disk is full; finished tiles are kept.
    """
    path = Path(path)
    layout = _layout(name, work)
    if layout != {key: manifest.read(path).get(key) for key in layout}:
        raise LinftError(f"{path} has no kernel {name} of such tiles; give the options it was begun with")
    wholes = {group: _whole(path, name, group, layout) for group in work.groups}
    summands = {group: _summands(path, name, group, layout) for group in work.groups}
    mine = [(i, j) for i in range(len(work.rows))[share[0] :: share[1]] for j in _columns(work, i)]
    ours = frozenset(mine)

    def lacks(group: str, i: int, j: int) -> bool:
        whole = wholes[group]
        return not (whole.has(i, j) and (whole.has(j, i) or not work.symmetric))

    def wanted(group: str, part: int, i: int, j: int) -> bool:
        parts = summands[group]
        return (i, j) in ours and lacks(group, i, j) and not (parts and parts[part].has(i, j))

    def write(group: str, i: int, j: int, block: TileBlock) -> None:
        mirrored = {(j, i): transposed(block)} if work.symmetric and i != j else {}
        wholes[group].write({(i, j): block, **mirrored})

    def add_up(group: str, i: int, j: int) -> None:
        parts = summands[group]
        if parts and lacks(group, i, j) and all(part.has(i, j) for part in parts):
            block = reduce(np.add, (part.read(i, j) for part in parts))  # in this order, for the same digits
            if np.isfinite(block).all():  # else another process has just completed the kernel and removed them
                write(group, i, j, block)

    units = [(group, part, i, j) for group in work.groups for part in range(work.parts[group]) for i, j in mine]
    done, total = sum(not wanted(*unit) for unit in units), len(units)
    tell = progress or (lambda done, total: None)
    tell(done, total)
    for group, _, i, j in units:
        add_up(group, i, j)  # where all summands were there when the call before this one ended
    for group, part, i, j, block in work.tiles(_agreed(work, wanted)):
        if (i, j) not in ours:  # computed together, and another host's to write
            continue
        if not np.isfinite(block).all():
            images = f"images {work.rows[i].start} to {work.rows[i].stop - 1}"
            raise LinftError(f"the kernel {name} of {group} is not finite at {images}; check them and the weights")
        if summands[group]:
            summands[group][part].write({(i, j): block})
            add_up(group, i, j)
        else:
            write(group, i, j, block)
        done += 1
        tell(done, total)
    if done < total:  # what other processes did in the meantime
        tell(total, total)
    if not any(whole.missing() for whole in wholes.values()):
        shutil.rmtree(path / f"{name}.parts", ignore_errors=True)


def load(path: str | Path) -> tuple[Kernel, Kernel | None]:
    """Θ(train, train) and, where the store has it, Θ(test, train).

    Raises:
      LinftError: tiles are missing (saying how many), a file is damaged, or memory is too small.
    """
    path = Path(path)
    found = manifest.read(path)
    names = [name for name in ("train", "test") if f"{name} shape" in found]
    wholes = {name: {group: _whole(path, name, group, found) for group in found["groups"]} for name in names}
    flat = [whole for of_name in wholes.values() for whole in of_name.values()]
    if missing := sum(whole.missing() for whole in flat):
        total = sum(len(whole.places()) for whole in flat)
        raise LinftError(f"{path} lacks {missing} of {total} tiles; finish it by its `linft kernel` call and --resume")
    needs = {"blocks": sum(whole.bytes for whole in flat)}
    memory.check(needs, memory.budget(None), "read parts of it with a reader of zarr")
    square, *rectangle = (
        Kernel({g: jnp.asarray(whole.read_all()) for g, whole in of_name.items()}, found["outputs"], found["engine"])
        for of_name in wholes.values()
    )
    return square, rectangle[0] if rectangle else None


def _layout(name: str, work: Work) -> dict[str, Any]:
    """How a kernel is cut, as JSON has it."""
    sides = [work.k] if work.k else []

    def along(rows: int, columns: int) -> list[int]:
        return [rows, *sides, columns, *sides]

    return {
        f"{name} shape": along(work.rows[-1].stop, work.columns[-1].stop),
        f"{name} tile": along(work.rows[0].stop, work.columns[0].stop),
        f"{name} parts": dict(work.parts),
        f"{name} passes": [list(paths) for paths in work.passes],
        f"{name} dtype": np.dtype(work.dtype).name,
    }


def _whole(path: Path, name: str, group: str, layout: dict[str, Any]) -> Chunked:
    return _chunked(path, f"{name}/{quote(group, safe='')}", name, layout)


def _summands(path: Path, name: str, group: str, layout: dict[str, Any]) -> list[Chunked]:
    count = layout[f"{name} parts"][group]
    at = f"{name}.parts/{quote(group, safe='')}"
    return [_chunked(path, f"{at}/{part}", name, layout) for part in range(count)] if count > 1 else []


def _chunked(path: Path, at: str, name: str, layout: dict[str, Any]) -> Chunked:
    return Chunked(path, at, tuple(layout[f"{name} shape"]), tuple(layout[f"{name} tile"]), layout[f"{name} dtype"])


def _agreed(work: Work, wanted: TileWanted) -> TileWanted:
    """What this process wants; or, where hosts compute every tile together, what any of them does."""
    if not multihost.many(work.mesh):
        return wanted
    tiles = [(i, j) for i in range(len(work.rows)) for j in _columns(work, i)]
    units = [(group, part, i, j) for group in work.groups for part in range(work.parts[group]) for i, j in tiles]
    flags = multihost.anywhere(work.mesh, np.array([wanted(*unit) for unit in units]))
    agreed = frozenset(unit for unit, flag in zip(units, flags, strict=True) if flag)
    return lambda *unit: unit in agreed


def _columns(work: Work, i: int) -> range:
    return range(i + 1 if work.symmetric else len(work.columns))
