"""The package as installed: quick to start, and complete."""

import subprocess
import sys
from pathlib import Path

import pytest

import linft
import linft.ntk

HEAVY = ("jax", "flax", "matplotlib", "tensorflow", "sklearn")

HELP = """
import contextlib, io, sys
from linft.cli.main import main
sys.argv = ["linft", "--help"]
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
    main()
assert "compare" in out.getvalue(), out.getvalue()
"""


def run(code: str) -> subprocess.CompletedProcess:
    """Run code in a fresh interpreter, which then fails if something heavy was imported."""
    check = f"\nimport sys\nheavy = [name for name in {HEAVY} if name in sys.modules]\nassert not heavy, heavy"
    return subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True)


@pytest.mark.parametrize(
    "code", ["import linft", "import linft.ntk", "import linft.core.recipe", "import linft.cli.main", HELP]
)
def test_starts_without_heavy_imports(code):
    done = run(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", [linft, linft.ntk])
def test_every_name_loads(module):
    for name in module._HOME:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        module.nonsense  # noqa: B018


def test_data_files_are_there():
    root = Path(linft.__file__).parent
    assert (root / "py.typed").is_file()
    assert list((root / "zoo" / "weights").glob("*.safetensors"))
