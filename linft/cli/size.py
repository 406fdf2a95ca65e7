"""Sizes of memory as people write them."""

import re

from linft.core.errors import LinftError

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def to_bytes(text: str) -> int:
    """Bytes of a size such as 4GiB, 500 MB or 1.5TiB.

    Raises:
      LinftError: it is no such size, or less than a byte.

    Example:
      >>> to_bytes("1.5KiB"), to_bytes("500 MB")
      (1536, 500000000)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", text.strip())
    size = int(float(found[1]) * UNITS[found[2]]) if found and found[2] in UNITS else 0
    if size < 1:
        raise LinftError(f"{text!r} is no size of memory; give one such as 4GiB or 500MB")
    return size
