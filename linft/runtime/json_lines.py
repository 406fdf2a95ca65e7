"""Files of JSON lines, one object a line, that processes add to at once; a line cut off by a kill is passed over."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from linft.core.errors import LinftError
from linft.runtime.json_files import encoded


def read(path: Path) -> list[dict[str, Any]]:
    """The objects of a file in their order; none where there is no file.

    Raises:
      LinftError: the file cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else []
    except OSError as error:
        raise LinftError(f"cannot read {path} ({error.strerror}); choose another directory") from None
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:  # the process was killed while it wrote
            continue
    return [each for each in found if isinstance(each, dict)]


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    r"""Add lines, each in one write, so that those of several processes do not mix.

    A last line that was cut off is ended first. Numbers that are not finite become null.

    Raises:
      LinftError: the file cannot be written, or the disk is full.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp()) / "rows.jsonl"
      >>> _ = path.write_text('{"key": 1}\n{"ke')
      >>> append(path, [{"key": 2}, {"key": 3}])
      >>> read(path)
      [{'key': 1}, {'key': 2}, {'key': 3}]
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+", buffering=0) as file:
            for row in rows:
                line = encoded(row) + b"\n"
                left = line if _ended(file) else b"\n" + line
                while left:  # once, unless the disk fills up: then the second call says so
                    left = left[file.write(left) :]
    except OSError as error:
        raise LinftError(
            f"cannot write {path} ({error.strerror}); free some space or choose another directory"
        ) from None


def drop_torn(path: Path) -> bool:
    """Cut a last line off that was not finished, and say whether there was one; nobody may write meanwhile."""
    with path.open("rb+") as file:
        if _ended(file):
            return False
        file.seek(0)
        *_, torn = file.read().rpartition(b"\n")
        file.truncate(file.tell() - len(torn))
        return True


def _ended(file: Any) -> bool:
    if not file.seek(0, 2):
        return True
    file.seek(-1, 2)
    return file.read(1) == b"\n"
