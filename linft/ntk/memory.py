"""How much memory a kernel takes, checked before it starts."""

import jax
import psutil

from linft.errors import LinftError

GIB = 2**30
SHARE = 0.9  # of what is free: the rest is for compilation and the allocator


def free_bytes() -> int:
    """Free memory of the first device, or of the host where the device is the CPU."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return psutil.virtual_memory().available


def check(needs: dict[str, int], advice: str) -> None:
    """Refuse a computation that needs more than is free, saying what needs how much and what to change."""
    free, total = free_bytes(), sum(needs.values())
    if total > SHARE * free:
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in needs.items())
        raise LinftError(
            f"the kernel needs about {total / GIB:.1f} GiB ({parts}) and {free / GIB:.1f} GiB are free; {advice}"
        )
