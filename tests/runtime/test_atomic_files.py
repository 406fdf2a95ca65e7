"""A file is there whole or not at all."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from linft.core.errors import LinftError
from linft.runtime.atomic_files import whole


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "note.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("note.txt", "old")]
    with whole(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("note.txt", "new")]


def test_a_file_is_readable_as_the_umask_says(tmp_path):
    (tmp_path / "plain").touch()
    with whole(tmp_path / "private") as partial:
        partial.touch()
        partial.chmod(0o600)
    assert (tmp_path / "private").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "deep" / "note.txt"
    with (
        pytest.raises(LinftError, match=r"cannot write .*note.txt \(Not a directory\); free some space or"),
        whole(path),
    ):
        pytest.fail("the block ran")


@contextmanager
def full_disk() -> Iterator[None]:
    """Files may not grow past 100 bytes: only here, since the log of the tests may be a file too."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    path = tmp_path / "note.txt"
    too_large = pytest.raises(LinftError, match=r"cannot write .*note.txt \(File too large\)")
    with too_large, full_disk(), whole(path) as partial:
        partial.write_text("x" * 1000)
    assert not list(tmp_path.iterdir())
