"""neural-tangents 0.6.5, which is archived, on JAX 0.7.2 and later.

It imports names that JAX has moved since. They are put back for the time of the import only, and
`neural_tangents.experimental`, which would import TensorFlow, is replaced by an empty module. So of what
the package declares only frozendict is needed, and linft does without the package where it is not installed.
"""

import contextlib
import importlib
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.core
import jax.extend.core
from jax.interpreters import ad

from linft.core.errors import LinftError

_CORE = ("Jaxpr", "JaxprEqn", "Literal", "Var", "Primitive", "ClosedJaxpr", "Token")
_INTERNAL = ("AbstractValue", "ShapedArray", "Value", "Tracer", "DShapedArray")

NOT_INSTALLED = "neural-tangents is not installed: pip install --no-deps neural-tangents frozendict"


def why_not() -> str | None:
    """Why the package cannot be used here; None where it can."""
    try:
        load()
    except LinftError as error:
        return str(error)
    return None


def load() -> Any:
    """The neural_tangents package.

    Raises:
      LinftError: it is not installed, or this version of JAX no longer runs it.
    """
    if "neural_tangents" in sys.modules:
        return sys.modules["neural_tangents"]
    try:
        with _old_jax(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("neural_tangents")
    except (ImportError, AttributeError, TypeError) as error:
        for name in [m for m in sys.modules if m.split(".")[0] == "neural_tangents"]:
            del sys.modules[name]
        if isinstance(error, ModuleNotFoundError) and error.name in ("neural_tangents", "frozendict"):
            raise LinftError(NOT_INSTALLED) from None
        raise LinftError(
            f"neural-tangents does not import on JAX {jax.__version__} ({error}); "
            'use engine="layerwise" and dual or spectral predictions, or JAX 0.12'
        ) from error


@contextlib.contextmanager
def _old_jax() -> Iterator[None]:
    """JAX with the names that neural-tangents imports."""
    import jax._src.core as internal
    import jax._src.util as util

    old_util = types.ModuleType("jax.util")
    old_util.safe_map, old_util.safe_zip = util.safe_map, util.safe_zip  # pyright: ignore
    experimental = types.ModuleType("neural_tangents.experimental")
    core: Any = jax.extend.core
    additions: list[tuple[Any, str, Any]] = [
        *((jax.core, name, getattr(core, name, None) or getattr(internal, name, None)) for name in _CORE),
        *((jax.core, name, getattr(internal, name, None)) for name in _INTERNAL),
        (ad, "zeros_like_p", core.Primitive("zeros_like")),
        (jax, "util", old_util),
    ]
    added = [(owner, name) for owner, name, value in additions if value is not None and not _has(owner, name)]
    before = {key: sys.modules.get(key) for key in ("jax.util", "neural_tangents.experimental")}
    for owner, name, value in additions:
        if (owner, name) in added:
            setattr(owner, name, value)
    sys.modules["jax.util"], sys.modules["neural_tangents.experimental"] = old_util, experimental
    try:
        yield
    finally:
        for owner, name in added:
            delattr(owner, name)
        if before["jax.util"] is None:
            del sys.modules["jax.util"]
        else:
            sys.modules["jax.util"] = before["jax.util"]


def _has(owner: Any, name: str) -> bool:
    with warnings.catch_warnings():  # some are deprecated rather than gone, and warn when looked at
        warnings.simplefilter("ignore")
        return hasattr(owner, name)
