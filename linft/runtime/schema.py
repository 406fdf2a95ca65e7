"""Results as JSON: a frozen dataclass a file, which its writer and its readers share.

Its field `schema`, with a default, names the version; a file of another version is refused.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from linft.core.errors import LinftError
from linft.runtime import json_lines
from linft.runtime.json_files import finite, plain, read_json, write_json

T = TypeVar("T")
Number = float | None
"""A number of a result; None where it is not finite, which JSON does not know."""


def write(path: Path, result: Any) -> None:
    """Write a dataclass as a file of JSON, whole or not at all; numbers that are not finite become null.

    Raises:
      LinftError: it cannot be written.
    """
    write_json(path, content(result))


def read(path: Path, kind: type[T]) -> T:
    """The dataclass of this kind that a file holds.

    Raises:
      LinftError: it is no JSON, of another version, or a field is missing or of the wrong type.

    Example:
      >>> import tempfile
      >>> from dataclasses import dataclass
      >>> @dataclass(frozen=True, kw_only=True)
      ... class Found:
      ...     schema: str = "found-1"
      ...     loss: Number
      >>> path = Path(tempfile.mkdtemp()) / "found.json"
      >>> write(path, Found(loss=float("nan")))
      >>> read(path, Found)
      Found(schema='found-1', loss=None)
    """
    return typed(read_json(path), kind, path)


def append(path: Path, rows: Iterable[Any]) -> None:
    """Add dataclasses to a file of JSON lines, one a line, as `json_lines.append` does."""
    json_lines.append(path, map(content, rows))


def read_rows(path: Path, kind: type[T]) -> list[T]:
    """The dataclasses of a file of JSON lines; none where there is no file.

    Raises:
      LinftError: the file cannot be read, or a line is of another kind.
    """
    return [typed(row, kind, path) for row in json_lines.read(path)]


def content(result: Any) -> Any:
    """A dataclass as it will be read again as JSON; NumPy's numbers are numbers."""
    return plain(finite(msgspec.to_builtins(result, enc_hook=_number)))


def _number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a result holds {type(value).__name__}, which JSON does not know")


def typed(found: Any, kind: type[T], where: Path | str) -> T:
    """What was read as JSON, as a dataclass; fields that it does not know are passed over.

    Args:
      where: the file, for the error.

    Raises:
      LinftError: as of `read`.
    """
    wanted = getattr(kind, "schema", None)
    version = found.get("schema") if isinstance(found, dict) else None
    if isinstance(found, dict) and wanted is not None and version != wanted:
        whose = "an earlier version of linft, which named no schema" if version is None else f"schema {version}"
        raise LinftError(f"{where} is of {whose}, and this one reads {wanted}; {REMEDY}")
    try:
        return msgspec.convert(found, kind)
    except (msgspec.ValidationError, LinftError) as error:  # the latter of a setting that a Recipe refuses
        raise LinftError(f"{where} is not as linft writes it ({error}); {REMEDY}") from None


REMEDY = "delete it to compute it again, or choose another directory"
