"""`make parity`: every architecture at its own size against its original; a line for each, and docs/parity.md."""

import argparse
import contextlib
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from agreement import Agreement, compare
from peers import FULL, SMALL, Peer

LOG = Path(__file__).parents[2] / "docs/parity.md"
PACKAGES = ("torch", "torchvision", "timm", "jax", "flax")
HEADER = """# Parity with the originals

Every architecture at random weights and random batch-norm statistics, written as a state dict by timm or torchvision
(the wide ResNets for 32×32 by a module of the tests) and read by linft, on a CPU. Errors are relative and the largest
of their kind. Logits and features in evaluation mode at both sizes, in float32, must agree to 1e-4. At the second size,
in float64, where round-off does not grow from layer to layer, the batch statistics after one step in training mode and
the gradient of the cross-entropy with respect to every array of parameters must agree to 1e-3.

"""
COLUMNS = (
    "| architecture | parameters | sizes | logits | features | statistics | gradients | seconds |\n"
    + "| --- " * 8
    + "|"
)
LIMITS = Agreement(1e-4, 1e-4, 1e-3, 1e-3, 0)


def line(name: str, peer: Peer) -> tuple[str, bool]:
    """The row of an architecture in the log, and whether it agrees."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        found = compare(peer, Path(directory))
    errors = " | ".join(f"{error:.0e}" if error else "none" for error in found[:4])  # none: no batch norm
    seconds = time.perf_counter() - start
    agrees = all(error < limit for error, limit in zip(found[:4], LIMITS, strict=False))
    row = f"| {name} | {found.parameters:,} | {peer.size}, {peer.second} | {errors} | {seconds:.0f} |"
    return row, agrees


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only these rows, of the small table too; nothing is written then")
    names = parser.parse_args().names
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    machine = f"`make parity` on {platform.machine()}, Python {platform.python_version()}, {versions}.\n"
    disagree = []
    with contextlib.ExitStack() as stack:
        outputs = [sys.stdout] if names else [sys.stdout, stack.enter_context(LOG.open("w"))]

        def tell(text: str) -> None:
            for output in outputs:
                print(text, file=output, flush=True)  # at once: a run that is stopped leaves what it has found

        tell(HEADER + machine)
        tell(COLUMNS)
        for name in names or FULL:
            row, agrees = line(name, (SMALL | FULL)[name])
            tell(row)
            disagree += [] if agrees else [name]
    if disagree:
        raise SystemExit("these do not agree: " + ", ".join(disagree))


if __name__ == "__main__":
    main()
