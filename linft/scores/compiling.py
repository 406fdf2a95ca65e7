"""How long JAX compiles, told apart from how long it computes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax.monitoring

EVENTS = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)

_seconds = dict.fromkeys(EVENTS, 0.0)


def _listen(event: str, duration_secs: float, **_: object) -> None:
    if event in _seconds:
        _seconds[event] += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)


def seconds() -> float:
    """Seconds that this process has spent tracing, lowering and compiling since this module was loaded.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> before = seconds()
      >>> _ = jax.jit(lambda x: jnp.sin(x) + 3)(jnp.ones(7))
      >>> seconds() > before
      True
    """
    return sum(_seconds.values())


@contextmanager
def apart(spent: dict[str, float], part: str) -> Iterator[None]:
    """Note in `spent` what the block took: under `part` without compiling, and that under `compile`."""
    begin, before = time.perf_counter(), seconds()
    yield
    compiled = seconds() - before
    spent[part] = max(0.0, time.perf_counter() - begin - compiled)
    spent["compile"] = spent.get("compile", 0.0) + compiled
