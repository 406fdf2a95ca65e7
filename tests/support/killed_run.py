"""Train in a directory until a moment when this process is killed: run by test_killed.py.

python tests/support/killed_run.py RECIPE RECORD_EVERY DIRECTORY SIGNAL MOMENT COUNT

The process sends itself the signal when the moment comes for the COUNT-th time: `before` or `after` a
training step, `write` in the thread that writes a checkpoint, `commit` when that is about to rename it.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import orbax.checkpoint as ocp

import linft
import linft.training.finetune
from linft.runtime import checkpoints, metrics_log

directory, number, moment, count = Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5], int(sys.argv[6])
came = 0


def now(here: str) -> None:
    global came
    came += here == moment
    if here == moment and came == count:
        os.kill(os.getpid(), number)


def stepping(*args):
    state, advance = begin(*args)

    def step(*args):
        now("before")
        state = advance(*args)
        now("after")
        return state

    return state, step


async def writing(*args):
    now("write")
    await write(*args)


def committing(*args):
    commit(*args)
    now("commit")


begin, linft.training.finetune.begin_training = linft.training.finetune.begin_training, stepping
write, ocp.JsonCheckpointHandler._save_fn = ocp.JsonCheckpointHandler._save_fn, writing
commit, ocp.CompositeCheckpointHandler.finalize = ocp.CompositeCheckpointHandler.finalize, committing

with checkpoints.open(directory / "checkpoints") as kept:
    run = linft.finetune(
        linft.load_model(directory.parent / "model.safetensors"),
        linft.load_task(f"npz:{directory.parent / 'task.npz'}"),
        record_every=int(sys.argv[2]),
        checkpoints=kept,
        tracking=partial(metrics_log.open, directory),
    )
    try:
        run(linft.Recipe(**json.loads(sys.argv[1])))
    except KeyboardInterrupt:
        sys.exit(3)
