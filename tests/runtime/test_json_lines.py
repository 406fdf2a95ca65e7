"""Lines of JSON outlive kills and full disks, and several processes add to one file."""

import json
import resource
import subprocess
import sys

import pytest

from linft.core.errors import LinftError
from linft.runtime import json_lines
from linft.runtime.json_files import read_json, write_json

ROWS = [{"key": i, "text": "π" * i, "loss": None} for i in range(4)]


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_line_cut_anywhere_costs_itself_alone(tmp_path, cut):
    path = tmp_path / "new" / "rows.jsonl"
    json_lines.append(path, ROWS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    kept = json_lines.read(path)
    assert kept == ROWS[: len(kept)] and len(kept) >= 3
    json_lines.append(path, ROWS[len(kept) :])
    assert json_lines.read(path) == ROWS


def test_numbers_that_are_not_finite_are_null(tmp_path):
    json_lines.append(tmp_path / "rows.jsonl", [{"loss": float("nan"), "curve": [1.0, float("inf")]}])
    assert json_lines.read(tmp_path / "rows.jsonl") == [{"loss": None, "curve": [1.0, None]}]
    json.loads((tmp_path / "rows.jsonl").read_text(), parse_constant=pytest.fail)


def test_no_file_has_no_lines_and_a_directory_is_one_line(tmp_path):
    assert json_lines.read(tmp_path / "rows.jsonl") == []
    with pytest.raises(LinftError, match=r"cannot read .* choose another directory"):
        json_lines.read(tmp_path)
    with pytest.raises(LinftError, match=r"cannot write .* free some space or choose"):
        json_lines.append(tmp_path, ROWS)


def test_a_full_disk_is_one_line_and_keeps_what_was_written(tmp_path):
    path = tmp_path / "rows.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(LinftError, match=r"cannot write .*rows.jsonl \(File too large\)"):
            json_lines.append(path, ROWS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    kept = json_lines.read(path)
    assert 0 < len(kept) < 4 and kept == ROWS[: len(kept)]


WRITER = """
import sys
from pathlib import Path
from linft.runtime import json_lines
from linft.runtime.json_files import read_json, write_json
for i in range(200):
    json_lines.append(Path(sys.argv[1]), [{"of": sys.argv[2], "number": i, "long": sys.argv[2] * 3000}])
"""


def test_lines_of_several_processes_do_not_mix(tmp_path):
    path = tmp_path / "rows.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in "ab"]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    rows = json_lines.read(path)
    assert len(rows) == 400 and all(set(row["long"]) == {row["of"]} for row in rows)
    for name in "ab":
        assert [row["number"] for row in rows if row["of"] == name] == list(range(200))


def test_names_of_files_that_are_no_utf8_are_kept(tmp_path):
    rows = [{"file": "caf\udce9", "text": "café"}]
    json_lines.append(tmp_path / "rows.jsonl", rows)
    assert json_lines.read(tmp_path / "rows.jsonl") == rows
    write_json(tmp_path / "it.json", rows[0])
    assert read_json(tmp_path / "it.json") == rows[0] and "café" in (tmp_path / "it.json").read_text("utf-8")
