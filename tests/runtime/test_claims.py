"""A directory of something else is refused, whichever side has what the other lacks."""

import pytest

from linft.core.errors import LinftError
from linft.runtime.claims import claim
from linft.runtime.json_files import read_json

IDENTITY = {"command": "compare", "seed": 0, "recipe": {"rates": (0.1, 0.01)}, "model": "a" * 50}


@pytest.mark.parametrize(
    ("now", "named"),
    [
        (IDENTITY | {"seed": 1}, r"seed \(0, now 1\);"),
        (IDENTITY | {"model": "b" * 50}, "model;"),
        (IDENTITY | {"recipe": {"rates": (0.1,)}}, r"recipe \("),
        ({k: v for k, v in IDENTITY.items() if k != "command"}, r'command \("compare", now null\);'),
        (IDENTITY | {"engine": "auto"}, r'engine \(null, now "auto"\);'),
    ],
)
def test_what_differs_is_named_on_either_side(tmp_path, now, named):
    file = tmp_path / "new" / "config.json"
    claim(file, IDENTITY, "results")
    claim(file, IDENTITY, "results")
    with pytest.raises(LinftError, match=f"new holds results with another {named}"):
        claim(file, now, "results")
    assert read_json(file)["recipe"] == {"rates": [0.1, 0.01]}, "what was refused has changed nothing"
