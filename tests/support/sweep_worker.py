"""A worker of a shared sweep that kills itself: run by tests/workflows/sweep/test_shared.py.

python tests/support/sweep_worker.py TANGENT STORAGE KILLED_AT

It replays nothing but closed forms of a kernel on disk, and sends itself SIGKILL in the midst of the
KILLED_AT-th point that it runs.
"""

import os
import signal
import sys

os.environ["JAX_PLATFORMS"] = "cpu"

from swept import BASE, RATES

from linft import predict
from linft.core.base import OneByOne
from linft.predict.tangent import load
from linft.workflows.sweep.shared import Sharing
from linft.workflows.sweep.sweep import sweep

spectral, ran = predict.spectral(load(sys.argv[1]), record_every=10), 0


def run(recipe):
    global ran
    ran += 1
    if ran == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return spectral(recipe)


sweep(OneByOne(run), RATES, BASE, sharing=Sharing(sys.argv[2]))
