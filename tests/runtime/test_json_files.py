"""Files of JSON are there whole, whoever else writes them."""

import threading

import pytest

from linft.core.errors import LinftError
from linft.runtime.json_files import finite, plain, read_json, write_json


def test_values_that_are_not_finite_are_null():
    assert finite({"a": [1.0, float("nan")], "b": float("inf"), "c": (2,)}) == {"a": [1.0, None], "b": None, "c": [2]}


def test_plain_is_what_is_read_again(tmp_path):
    content = {"tuple": (1, 2), "nested": {"of": [None, True]}}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == plain(content) == {"tuple": [1, 2], "nested": {"of": [None, True]}}


def test_a_damaged_file_is_one_line(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(LinftError, match=r"a.json is not readable JSON \(.*\); delete it to compute it again"):
        read_json(tmp_path / "a.json")


def test_of_several_writers_one_stays_whole(tmp_path):
    """Each has a partial file of its own: none finds that another has moved it away."""
    path, met, errors = tmp_path / "a.json", threading.Barrier(4), []

    def write(number):
        try:
            for _ in range(50):
                met.wait(60)
                write_json(path, {"of": [number] * 2000})
        except Exception as error:
            errors.append(error)
            met.abort()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(set(read_json(path)["of"])) == 1 and [file.name for file in tmp_path.iterdir()] == ["a.json"]
