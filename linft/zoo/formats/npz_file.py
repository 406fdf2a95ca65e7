"""NumPy archives, .npz, read one array at a time."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from linft.core.errors import LinftError
from linft.zoo.formats.tensors import Tensors

UNREADABLE = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error)
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def npz_file(path: Path) -> Tensors:
    """The plain arrays of an archive; nothing in it is unpickled.

    Raises:
      LinftError: it is no archive, or cut short, or holds Python objects.
    """

    def refuse(error: Exception) -> LinftError:
        return LinftError(f"{path} is not a readable .npz file of plain arrays ({error}); was it cut short?")

    def shape(name: str) -> tuple[int, ...]:
        with archive.open(name) as member:
            return HEADERS[npy.read_magic(member)](member)[0]

    def read(key: str) -> np.ndarray:
        try:
            with archive.open(f"{key}.npy") as member:
                return npy.read_array(member, allow_pickle=False)
        except UNREADABLE as error:
            raise refuse(error) from None

    try:
        archive = zipfile.ZipFile(path)
        shapes = {name.removesuffix(".npy"): shape(name) for name in archive.namelist()}
    except UNREADABLE as error:
        raise refuse(error) from None
    return Tensors(path, shapes, read)
