"""Files of JSON, written whole or not at all."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linft.core.errors import LinftError
from linft.runtime.atomic_files import whole


def read_json(path: Path) -> Any:
    """The content of a file.

    Raises:
      LinftError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LinftError(f"{path} is not readable JSON ({error}); delete it to compute it again") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file, though several processes may do so at once; numbers that are not finite become null.

    Raises:
      LinftError: it cannot be written.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp()) / "found.json"
      >>> write_json(path, {"loss": float("nan"), "steps": (0, 1)})
      >>> read_json(path)
      {'loss': None, 'steps': [0, 1]}
    """
    with whole(path) as partial:
        partial.write_bytes(encoded(content, indent=1) + b"\n")


def encoded(content: Any, indent: int | None = None) -> bytes:
    r"""JSON in UTF-8, readable; names of files that are no UTF-8 are escaped, which JSON reads as they were.

    Example:
      >>> encoded({"café": "caf\udce9"}).decode(), json.loads(encoded("caf\udce9")) == "caf\udce9"
      ('{"café": "caf\\udce9"}', True)
    """
    return json.dumps(finite(content), indent=indent, ensure_ascii=False).encode("utf-8", "backslashreplace")


def plain(content: Any) -> Any:
    """The content as it will be read again: tuples are lists, keys are texts."""
    return json.loads(json.dumps(content))


def finite(value: Any) -> Any:
    """The same JSON with null for numbers that are not finite, which JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, (list, tuple)) else value
