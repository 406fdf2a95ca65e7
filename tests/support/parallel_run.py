"""Train on so many fake devices, in so many processes, and keep the curve: run by test_training.py.

python tests/support/parallel_run.py DIRECTORY DEVICES PROCESSES RANK
"""

import os
import sys
from pathlib import Path

directory, devices, processes, rank = Path(sys.argv[1]), *map(int, sys.argv[2:])
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import numpy as np  # noqa: E402

if processes > 1:
    port = 20000 + os.getppid() % 20000
    jax.distributed.initialize(f"localhost:{port}", processes, rank)

import linft  # noqa: E402
from linft.core import parallel  # noqa: E402
from linft.runtime import checkpoints  # noqa: E402
from linft.training.step import Execution  # noqa: E402

task = linft.load_task("digits").subset(48, 20)
model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=2)
recipe = linft.Recipe(
    learning_rate=0.01, batch_size=16, epochs=2, batch_norm="train", augmentation="crop_flip", weight_decay=1e-3
)
execution = Execution(mesh=parallel.mesh())
for until in (4, None):  # the second goes on where the first ended
    with checkpoints.open(directory / "checkpoints") as kept:
        trajectory = linft.finetune(model, task, execution=execution, checkpoints=kept, until=until)(recipe)
assert jax.device_count() == devices * processes
if rank == 0:
    curves = ("steps", "train_loss", "test_loss", "train_accuracy", "test_accuracy")
    weights = {f"weights{i}": leaf for i, leaf in enumerate(jax.tree.leaves(trajectory.model.params))}
    np.savez(directory / "curve.npz", **{name: getattr(trajectory, name) for name in curves}, **weights)
