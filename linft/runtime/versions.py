"""What results were made with."""

import platform
from importlib.metadata import version

import jax

PACKAGES = ("linft", "jax", "jaxlib", "flax", "optax", "numpy")


def versions() -> dict[str, str]:
    """Versions of packages and of Python, and the device."""
    return {name: version(name) for name in PACKAGES} | {
        "python": platform.python_version(),
        "device": f"{jax.default_backend()}: {jax.devices()[0].device_kind}",
    }
