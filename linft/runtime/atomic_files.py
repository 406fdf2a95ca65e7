"""Files that are written whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError

from linft.core.errors import LinftError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to in the block, which becomes `path` only once the block has ended well.

    It is this call's own, so that several processes may write the same file: the last one's stays.

    Raises:
      LinftError: the directory cannot be made or written to, or the disk is full.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp()) / "new" / "note.txt"
      >>> with whole(path) as partial:
      ...     _ = partial.write_text("done")
      >>> path.read_text(), [file.name for file in path.parent.iterdir()]
      ('done', ['note.txt'])
    """
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)  # what the user's umask gives; safetensors makes its files private
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LinftError(f"cannot write {path} ({reason}); free some space or choose another directory") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
