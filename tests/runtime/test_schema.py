"""Results are read as the dataclass that wrote them, or refused in one line."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

import linft
from linft.core.errors import LinftError
from linft.runtime import schema
from linft.runtime.schema import Number


@dataclass(frozen=True)
class Part:
    losses: list[Number]
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    schema: str = "found-2"
    recipe: linft.Recipe
    parts: dict[str, Part]


FOUND = Found(
    recipe=linft.Recipe(steps=3, rate_multipliers=(("head", 10.0),), frozen_groups=("stem",)),
    parts={"a": Part([1.0, 2.5]), "caf\udce9": Part([], "lost")},  # the second named by a file that is no UTF-8
)


def test_what_was_written_is_read(tmp_path):
    schema.write(tmp_path / "it.json", FOUND)
    assert schema.read(tmp_path / "it.json", Found) == FOUND
    assert next(iter(json.loads((tmp_path / "it.json").read_text()))) == "schema", "the version comes first"


def test_rows_are_read_in_their_order(tmp_path):
    rows = [Part([1.0]), Part([2.0], "why")]
    schema.append(tmp_path / "rows.jsonl", rows[:1])
    schema.append(tmp_path / "rows.jsonl", rows[1:])
    assert schema.read_rows(tmp_path / "rows.jsonl", Part) == rows
    with pytest.raises(LinftError, match=r"rows\.jsonl is of an earlier version of linft"):
        schema.read_rows(tmp_path / "rows.jsonl", Found)
    assert schema.read_rows(tmp_path / "none.jsonl", Part) == []


def test_numbers_of_numpy_are_numbers():
    found = Part([np.float32(0.5), np.float64(np.inf), np.int64(3)], reason=np.bool_(True))  # pyright: ignore
    assert json.dumps(schema.content(found)) == '{"losses": [0.5, null, 3], "reason": true}'
    with pytest.raises(TypeError, match="a result holds object, which JSON does not know"):
        schema.content(Part([object()]))  # pyright: ignore


def test_numbers_that_are_not_finite_are_none_when_read(tmp_path):
    schema.write(tmp_path / "it.json", Part([float("nan"), float("inf"), 1.0]))
    assert schema.read(tmp_path / "it.json", Part) == Part([None, None, 1.0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": "found-1"}, "is of schema found-1, and this one reads found-2; delete it"),
        ({"schema": None}, "is of an earlier version of linft, which named no schema, and this one reads found-2"),
        ({"recipe": None}, r"is not as linft writes it \(Expected `object`, got `null` - at `\$.recipe`\); delete it"),
        ({"recipe": {"momentum": 2.0}}, r"momentum is 2.0; it must lie in \[0, 1\)\); delete it"),
        ({"parts": {"a": {}}}, r"missing required field `losses` - at `\$.parts\[...\]`\); delete it"),
        (
            {"parts": {"a": {"losses": ["low"]}}},
            r"got `str` - at `\$.parts\[...\].losses\[0\]`",
        ),
    ],
)
def test_anything_else_is_one_line(tmp_path, change, said):
    path = tmp_path / "it.json"
    path.write_text(json.dumps(schema.content(FOUND) | change))
    with pytest.raises(LinftError, match=f"^{path} .*{said}") as refused:
        schema.read(path, Found)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["[1]", '"text"', "3"])
def test_json_of_another_shape_is_one_line(tmp_path, text):
    (tmp_path / "it.json").write_text(text)
    with pytest.raises(LinftError, match=r"it.json is not as linft writes it \(Expected `object`, got"):
        schema.read(tmp_path / "it.json", Found)
