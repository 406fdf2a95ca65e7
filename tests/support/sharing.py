"""`linft kernel` of a small network on fake devices, as one of several hosts: run by test_scale_out.py.

python tests/support/sharing.py DEVICES RANK COUNT ARGUMENT…

The process kills itself before it writes for the COUNT-th time, where that is not 0. It goes for an
accelerator, whose products are XLA's, where LINFT_TEST_ACCELERATOR is set. At the end it says of how many
images its devices computed the Jacobians.
"""

import os
import sys

from flax import linen as nn


class Uneven(nn.Module):
    """Numbers of parameters, channels and features that no number of devices divides."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.relu(nn.Conv(3, (3, 3), name="conv1")(x))
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="norm1")(x))
        x = nn.relu(nn.Conv(5, (3, 3), name="conv2")(x))
        return nn.Dense(3, name="head")(x.mean((1, 2)))


if __name__ == "__main__":
    devices, rank, count = map(int, sys.argv[1:4])
    sys.argv[1:] = ["kernel", *sys.argv[4:]]
    os.environ |= {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
    }
    import jax
    from drawn import make
    from filling import kill_at

    from linft.cli import kernel
    from linft.cli.main import main
    from linft.ntk.layerwise import sharded

    divide, computed = sharded.images, 0

    def images(on, x):
        global computed
        found = divide(on, x)
        computed += sum(len(shard.data) for shard in found.addressable_shards)
        return found

    sharded.images = images
    kernel.ComputeKernel.model = lambda self, task: make(Uneven())
    if "LINFT_TEST_ACCELERATOR" in os.environ:
        jax.default_backend = lambda: "tpu"
    if count:
        kill_at("before", count)
    main()
    print(f"images: {computed}")
