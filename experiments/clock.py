"""What a call costs the processor, without what it took to compile."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
from jax import monitoring


class Clock:
    """Processor seconds of calls, without those that compiling took: its share of the time that passed is left out."""

    def __init__(self) -> None:
        self.compiling: list[tuple[float, float]] = []
        monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, duration_secs: float, **kwargs: Any) -> None:
        del kwargs
        if event.startswith("/jax/core/compile/"):
            self.compiling.append((time.perf_counter() - duration_secs, time.perf_counter()))

    def __call__(self, function: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, float]:
        self.compiling.clear()
        wall, processor = time.perf_counter(), time.process_time()
        found = jax.block_until_ready(function(*args, **options))
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        return found, processor * (1 - self._covered() / wall)

    def each(self, found: Iterable[Any]) -> Iterator[tuple[Any, float]]:
        """What is found one after another, with what each took."""
        ahead = iter(found)
        while True:
            one, seconds = self(next, ahead, None)
            if one is None:
                return
            yield one, seconds

    def _covered(self) -> float:
        """Seconds in which anything was compiled; tracing one program may hold that of another."""
        covered, until = 0.0, 0.0
        for begin, end in sorted(self.compiling):
            covered, until = covered + max(0.0, end - max(begin, until)), max(until, end)
        return covered
