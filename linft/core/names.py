"""Names from files, whatever bytes they are of, as text that can be printed and written."""

from typing import Any


def printable(name: Any) -> str:
    r"""The name, with what is no UTF-8 in it escaped: in names of files Python keeps it as lone surrogates.

    Example:
      >>> printable(b"caf\xe9"), printable("caf\udce9"), printable("café")
      ('caf\\xe9', 'caf\\udce9', 'café')
    """
    if isinstance(name, bytes):
        return name.decode("utf-8", "backslashreplace")
    return str(name).encode("utf-8", "backslashreplace").decode()
