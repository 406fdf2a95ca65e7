"""Whose a directory is: what its results depend on, written into it at the beginning and compared before going on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linft.core.errors import LinftError
from linft.runtime.json_files import plain, read_json, write_json

SHORT = 40  # characters of a value that an error shows


def claim(file: Path, identity: Mapping[str, Any], holds: str) -> None:
    """Write into a file of a directory what the results there depend on, or find the very same there.

    Args:
      identity: everything that changes them, as JSON has it; images and weights by their digests.
      holds: what the directory holds, for the error.

    Raises:
      LinftError: the directory is of something else (naming what differs), or cannot be read or written.

    Example:
      >>> import tempfile
      >>> file = Path(tempfile.mkdtemp()) / "identity.json"
      >>> claim(file, {"seed": 0}, "a run")
      >>> claim(file, {"seed": 0}, "a run")
    """
    if not file.exists():
        write_json(file, identity)
    agree(file.parent, read_json(file), plain(identity), holds)


def agree(where: Path, before: Mapping[str, Any], now: Mapping[str, Any], holds: str) -> None:
    """Refuse what differs in any key of before or of now.

    Raises:
      LinftError: naming the keys, and values that are short.
    """
    differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if differing:
        named = ", ".join(_named(key, before.get(key), now.get(key)) for key in differing)
        raise LinftError(f"{where} holds {holds} with another {named}; give what it was begun with, or another output")


def _named(key: str, before: Any, now: Any) -> str:
    values = [json.dumps(value, ensure_ascii=False) for value in (before, now)]
    return f"{key} ({values[0]}, now {values[1]})" if max(map(len, values)) <= SHORT else key
