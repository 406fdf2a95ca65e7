"""What a kernel on many devices exchanges and multiplies, and how long that takes at published rates.

    python benchmarks/scale_out_model.py

A model, not a measurement: bytes and operations are counted as docs/scale-out.md says, and divided by
the rates in MACHINES, of which real programs reach a part. Every parameter's Jacobian counts with all
outputs, also where one backward pass serves them all.
"""

import math
from dataclasses import dataclass

N, K = 1024, 10  # images and outputs
P = 23_508_032  # parameters of ResNet-50 without its head, whose kernel is in closed form
FORWARD = 8.2e9  # operations of one image, 224 × 224
ITEM = 4  # bytes of float32
TILE = 256


@dataclass(frozen=True)
class Machine:
    """Devices and their rates."""

    name: str
    devices: int
    memory: float
    """Bytes of a device that Jacobians may take: 80 % of all."""
    products: float
    """Operations a second of a device, float32 at the highest precision."""
    fast: tuple[str, float]
    """A less precise way, and its rate."""
    cut: tuple[float, float]
    """Of the narrowest cut through the links: the share of all bytes that cross it one way, and bytes a second."""


# Google Cloud, TPU v5e: 16 GB, 197 Tflop/s in bfloat16 (of which float32 takes six products), 1600 Gbit/s between
# chips, on four links of 50 GB/s each way; the cut through the middle of 2 × 4 chips has two of them.
# NVIDIA, H100 SXM data sheet: 80 GB, 67 Tflop/s in float32, 495 in TF32 (dense), NVLink of 900 GB/s, 450 each way;
# DGX H100: one network card of 400 Gbit/s for each device.
MACHINES = (
    Machine("v5e-8", 8, 0.8 * 16e9, 197e12 / 6, ("bfloat16", 197e12), (1 / 4, 2 * 50e9)),
    Machine("8 × H100", 8, 0.8 * 80e9, 67e12, ("TF32", 495e12), (7 / 8 / 8, 450e9)),
    Machine("2 hosts of 8 × H100", 16, 0.8 * 80e9, 67e12, ("TF32", 495e12), (1 / 4, 8 * 50e9)),
)


def row(machine: Machine, outputs: str) -> list[str]:
    """One line of the table."""
    devices, k = machine.devices, K if outputs == "full" else 1
    jacobians = N * K * P * ITEM
    passes = math.ceil(jacobians / (devices * machine.memory))
    sent = jacobians / devices * (devices - 1) / devices
    tiles = math.ceil(N / TILE)
    kernel = N * N * K * k * ITEM * (tiles + 1) / (2 * tiles)  # of a trace, one for each output
    added = 2 * (devices - 1) / devices * kernel
    products = 2 * N**2 * K * k * P * (tiles + 1) / (2 * tiles) / devices
    backward = K * (passes + 1) / 2 + K  # down to a pass's layers every time, and each weight's gradient once
    differentiated = N * FORWARD * (passes + backward) / devices
    share, rate = machine.cut
    name, fast = machine.fast
    return [
        machine.name,
        outputs,
        str(passes),
        f"{sent / 1e9:.1f} GB",
        f"{added / 1e9:.3f} GB",
        f"{jacobians * share / rate:.2f} s",
        f"{(products + differentiated) / machine.products:.2f} s",
        f"{(products + differentiated) / fast:.2f} s in {name}",
    ]


def main() -> None:
    """Print the table."""
    heads = ("machine", "outputs", "passes", "sent a device", "of tiles", "exchange", "work, float32", "work, faster")
    print("| " + " | ".join(heads) + " |")
    print("|" + " --- |" * len(heads))
    for machine in MACHINES:
        for outputs in ("trace", "full"):
            print("| " + " | ".join(row(machine, outputs)) + " |")


if __name__ == "__main__":
    main()
