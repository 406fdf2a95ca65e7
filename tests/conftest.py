"""What every test shares: array shapes checked as the code runs, strict numerics, small data."""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from jaxtyping import install_import_hook

# Before anything imports linft. Self is left unchecked: beartype knows it in whole classes only, and
# the hook decorates their methods one by one.
OVERRIDES = "beartype.FrozenDict({beartype.typing.Self: object})"
CONFIGURATION = f"beartype.BeartypeConf(is_pep484_tower=True, hint_overrides={OVERRIDES})"
install_import_hook("linft", f"beartype.beartype(conf={CONFIGURATION})")

# XLA without its optimizations, here and in other processes: of networks this small compiling takes most of the time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# What one test has compiled, another one, its subprocess, a worker beside this one or the next run need not.
COMPILED = {
    "JAX_COMPILATION_CACHE_DIR": str(Path(__file__).parents[1] / "build/compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ |= COMPILED

import jax  # noqa: E402
import jax.experimental  # noqa: E402
import pytest  # noqa: E402

import linft  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

MAPS = 20_000


@pytest.fixture(autouse=True)
def log_handlers() -> Iterator[None]:
    """A command sends the log to its standard output, which ends with its test."""
    before = logging.root.handlers[:]
    yield
    logging.root.handlers[:] = before


@pytest.fixture(scope="module", autouse=True)
def compiled_programs() -> Iterator[None]:
    """They are given up when many: each is mapped into memory, and Linux refuses a process more than 65,530 maps."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MAPS:
        jax.clear_caches()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The directory of data sets beside the repository, or where LINFT_SHARED says."""
    path = Path(os.environ.get("LINFT_SHARED", Path(__file__).parents[2] / "shared"))
    if not path.is_dir():
        reason = f"no data sets at {path}; set LINFT_SHARED to their directory"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    return path


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 for one test."""
    enable = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    with enable(True):
        yield


@pytest.fixture
def without_neural_tangents(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which the package is not installed."""

    class Absent:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "neural_tangents":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in [name for name in sys.modules if name.split(".")[0] == "neural_tangents"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent, *sys.meta_path])


@pytest.fixture(scope="session")
def digits() -> linft.Task:
    """24 training and 12 test digits."""
    return linft.load_task("digits").subset(24, 12, seed=0)
