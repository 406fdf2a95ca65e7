"""The empirical neural tangent kernel: in memory, on disk tile by tile, from random projections, or as an operator.

Names load on first use, so that the command line answers quickly.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from linft.ntk.empirical import empirical_ntk as empirical_ntk
    from linft.ntk.empirical import train_test_ntk as train_test_ntk
    from linft.ntk.matrix_free.krylov import solve as solve
    from linft.ntk.matrix_free.krylov import spectral_measure as spectral_measure
    from linft.ntk.matrix_free.krylov import time_constants as time_constants
    from linft.ntk.matrix_free.krylov import top_eigenvalues as top_eigenvalues
    from linft.ntk.matrix_free.krylov import trace as trace
    from linft.ntk.matrix_free.nystrom import nystrom as nystrom
    from linft.ntk.matrix_free.operator import kernel_operator as kernel_operator
    from linft.ntk.projected import projected_ntk as projected_ntk
    from linft.ntk.tiled.store import load as load_kernel  # noqa: F401

_HOME = {
    "empirical_ntk": "empirical.empirical_ntk",
    "kernel_operator": "matrix_free.operator.kernel_operator",
    "load_kernel": "tiled.store.load",
    "nystrom": "matrix_free.nystrom.nystrom",
    "projected_ntk": "projected.projected_ntk",
    "solve": "matrix_free.krylov.solve",
    "spectral_measure": "matrix_free.krylov.spectral_measure",
    "time_constants": "matrix_free.krylov.time_constants",
    "top_eigenvalues": "matrix_free.krylov.top_eigenvalues",
    "trace": "matrix_free.krylov.trace",
    "train_test_ntk": "empirical.train_test_ntk",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'linft.ntk' has no attribute {name!r}")
    module, _, function = _HOME[name].rpartition(".")
    value = globals()[name] = getattr(importlib.import_module(f"linft.ntk.{module}"), function)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
