"""Several hosts compute one kernel in lockstep: what they agree on, add up, and say when one of them is gone."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NoReturn

import jax
import numpy as np
from jax.sharding import Mesh

from linft.core.errors import LinftError

HEARTBEAT = 30
"""Seconds without a sign of life after which a host counts as gone."""
GONE = "another host is gone or out of step{}; finished tiles are kept: start all hosts again with --resume"


def join() -> None:
    """Join the other hosts of this job, as the cluster's environment names them; ends without them in one line.

    Raises:
      LinftError: the environment names none, or they do not come.
    """
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise LinftError(f"cannot join the other hosts ({reason}); start one process a host by the cluster") from None
    ctypes.CDLL(None).signal(signal.SIGABRT, _aborted)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _aborted(number: int) -> None:
    """JAX aborts a process whose coordinator is gone, or that is told of another one's end, and has said so."""
    leave(GONE.format(" (aborted by JAX)"))


def leave(message: str) -> NoReturn:
    """End this process with a line and exit code 2, at once: JAX's own way out waits for the other hosts."""
    sys.stdout.flush()
    print(f"linft: {message}", file=sys.stderr, flush=True)
    os._exit(2)


def many(on: Mesh | None) -> bool:
    """Whether a mesh has devices of several hosts."""
    return on is not None and len({device.process_index for device in on.devices.flat}) > 1


def translated(function: Callable) -> Callable:
    """The function, whose failing because another host is gone is one line."""

    @wraps(function)
    def run(*args: Any) -> Any:
        try:
            return function(*args)
        except jax.errors.JaxRuntimeError as error:
            if jax.process_count() == 1 or "RESOURCE_EXHAUSTED" in str(error):
                raise
            reason = str(error).splitlines()[0]
            raise LinftError(GONE.format(f" ({reason})")) from None

    return run


@translated
def gathered(array: np.ndarray) -> np.ndarray:
    """[hosts …], what every host has of it, to the bit; all must ask."""
    from jax.experimental import multihost_utils

    content = np.ascontiguousarray(array)
    found = multihost_utils.process_allgather(content.reshape(-1).view(np.uint8))  # JAX would narrow float64
    return np.asarray(found).reshape(-1).view(array.dtype).reshape(-1, *array.shape)


def meet(on: Mesh | None) -> None:
    """Wait until all hosts of the mesh are here."""
    least(on, 0)


def least(on: Mesh | None, value: int) -> int:
    """The smallest of the hosts' values."""
    return int(gathered(np.array(value)).min()) if many(on) else value


def anywhere(on: Mesh | None, flags: np.ndarray) -> np.ndarray:
    """Where a flag is set on any host."""
    return gathered(flags).any(0) if many(on) else flags


def added(on: Mesh | None, blocks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The sum over hosts of every block, in the hosts' order: the same digits on each of them."""
    if not many(on):
        return dict(blocks)
    return {group: np.add.reduce(gathered(block), axis=0) for group, block in blocks.items()}
