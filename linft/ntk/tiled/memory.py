"""How much memory a kernel may take, and whether it is enough, before it starts."""

import jax
import psutil

from linft.core.errors import Unavailable

GIB = 2**30
SHARE = 0.8  # of what is free: the rest is for compilation and the allocator


def free_bytes() -> int:
    """Free memory of the first device, or of the host where the device is the CPU."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return psutil.virtual_memory().available


def used_bytes() -> int:
    """Memory in use on the first device, or by this process where the device is the CPU."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_in_use" in stats:
        return stats["bytes_in_use"]
    return psutil.Process().memory_info().rss


def budget(limit: int | None) -> int:
    """Bytes that a computation may add: up to a limit of all that is in use, or a share of what is free."""
    free = int(SHARE * free_bytes())
    return free if limit is None else min(free, limit - used_bytes())


def check_host(needs: dict[str, int], advice: str) -> None:
    """Refuse what NumPy is to hold beside all else where the host's memory has no room for it."""
    check(needs, int(SHARE * psutil.virtual_memory().available), advice)


def check(needs: dict[str, int], budget: int, advice: str) -> None:
    """Refuse a computation that needs more than its budget, saying what needs how much and what to change."""
    total = sum(needs.values())
    if total > budget:
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in needs.items())
        raise Unavailable(
            f"the kernel needs about {total / GIB:.1f} GiB ({parts}) and "
            f"{max(budget, 0) / GIB:.1f} GiB may be used; {advice}"
        )
