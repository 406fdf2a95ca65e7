"""Images a second of training, beside the same network in PyTorch on the same cores or the same GPU.

    python benchmarks/training.py [--torch-python PATH] [--cores 0,1] [--rounds 5] [--output FILE.json]

A round is an epoch of random images that the device holds: shuffling, normalizing, forward and backward
pass in training mode, and Nesterov momentum. The programs take turns, each in a process of its own,
so that other work on the machine falls on all of them; the numbers are medians over rounds, compiling
left out. Where other work wants the cores, look at the ratio by CPU time on one of them (--cores 0):
waiting for one another costs PyTorch's threads more than ours. PyTorch may live in another Python than
JAX, given by --torch-python; without it there is only ours. It runs plainly and with its channels last;
on a GPU compiled too, and both in bfloat16. Linearized training is compared with real training with
frozen batch norm, as it has it itself.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Options:
    """What is trained, and where."""

    torch_python: str | None = None
    """A Python that has torch and torchvision; by default this one."""
    cores: str | None = None
    """All programs run on these, such as 0,1; by default on any."""
    rounds: int = 5
    output: Path | None = None
    """File for the numbers, as JSON."""


class Case(NamedTuple):
    network: str
    side: int
    batch: int
    steps: int
    """Of an epoch."""
    precision: str = "float32"


ON_CPU = (Case("cifar_resnet20", 32, 128, 8), Case("resnet18", 64, 32, 8))
ON_GPU = (Case("resnet50", 224, 128, 64, "bfloat16"),)
SERVE = "serve"
"""The word by which this file is told to be one of the programs, in PyTorch's own Python too."""
OURS, PEERS = ("train", "frozen", "linearized"), ("torch", "torch-channels-last")


def ours(case: Case, how: str) -> Callable[[], None]:
    """One epoch of our training step."""
    import jax
    import numpy as np

    from linft import Recipe, linearize
    from linft.core.preprocessing import Preprocessing
    from linft.data.stream import Batch
    from linft.models import create
    from linft.training.step import Execution, begin_training, steps_per_call

    n, k = case.steps * case.batch, steps_per_call()
    model = create(case.network, 10, jax.random.key(0), Preprocessing((case.side, case.side, 3)))
    model = linearize(model) if how == "linearized" else model
    mode = "train" if how == "train" else "frozen"
    recipe = Recipe(learning_rate=1e-3, batch_size=case.batch, epochs=1, batch_norm=mode)
    state, advance = begin_training(model, recipe, n, Execution(precision=case.precision))  # pyright: ignore
    images, labels = random_images(case)
    held = jax.device_put(Batch(np.arange(n), images, None, labels))

    def epoch() -> None:
        nonlocal state
        order = np.random.default_rng(0).permutation(n).reshape(-1, k, case.batch)
        for index in order:
            state, losses = advance(state, Batch(index), held)
        jax.block_until_ready(losses)

    return epoch


def torchs(case: Case, how: str) -> Callable[[], None]:
    """One epoch of PyTorch's."""
    import numpy as np
    import torch
    from torch.nn.functional import cross_entropy

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    layout = torch.channels_last if how == "torch-channels-last" else torch.contiguous_format
    images, labels = (torch.from_numpy(x).to(device) for x in random_images(case))
    images = images.permute(0, 3, 1, 2).contiguous(memory_format=layout)
    network = torch_network(case.network).to(device, memory_format=layout)
    sgd = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, nesterov=True)
    forward = torch.compile(network) if on_gpu else network

    def epoch() -> None:
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels))).to(device)
        for index in order.split(case.batch):
            x = (images[index].float() / 255 - 0.5) / 0.25
            sgd.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=case.precision == "bfloat16"):
                loss = cross_entropy(forward(x), labels[index])
            loss.backward()
            sgd.step()
        loss.item()

    return epoch


def random_images(case: Case) -> tuple[Any, Any]:
    import numpy as np

    generator, n = np.random.default_rng(0), case.steps * case.batch
    return generator.integers(0, 256, (n, case.side, case.side, 3), np.uint8), generator.integers(0, 10, n)


def torch_network(name: str) -> Any:
    """torchvision's, whose compiled part may not load: its Python part asks for two operators of it."""
    import torch
    from torch import nn

    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms(Tensor dets, Tensor scores, float iou_threshold)", "qnms(Tensor a, Tensor b, float c)"):
        library.define(f"{operator} -> Tensor")
    import torchvision
    from torchvision.models.resnet import BasicBlock, conv3x3

    if name != "cifar_resnet20":
        return torchvision.models.get_model(name, num_classes=10)

    class Join(nn.Module):
        """Every second pixel and zero channels."""

        def forward(self, x: Any) -> Any:
            missing = x.shape[1]  # as many as there are
            return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, missing // 2, missing // 2))

    blocks = []
    for width in (16, 32, 64):
        stride, join = (1, None) if width == 16 else (2, Join())
        blocks += [BasicBlock(width // stride, width, stride, join), BasicBlock(width, width), BasicBlock(width, width)]
    stem = (conv3x3(3, 16), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def serve(case: Case, how: str) -> None:
    """Be one of the programs: an epoch for every line of the input; its seconds, and those of CPU, as a line."""
    epoch = (torchs if how in PEERS else ours)(case, how)
    epoch()  # compiles
    report = {"version": version("torch" if how in PEERS else "jax"), "device": device(how)}
    print(json.dumps(report), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        epoch()
        print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)


def device(how: str) -> str:
    if how in PEERS:
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    import jax

    return jax.devices()[0].device_kind


class Program:
    """A process that serves, on some cores only where there is a choice."""

    def __init__(self, python: str, case: Case, how: str, cores: str | None):
        pinned = ["taskset", "-c", cores] if cores else []
        command = [*pinned, python, __file__, SERVE, json.dumps([case, how])]
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # the GPU is shared with the peer
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self.about = json.loads(self.answer())

    def answer(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a program ended early; its error is above")
        return line

    def epoch(self) -> tuple[float, float]:
        assert self.process.stdin
        print(file=self.process.stdin, flush=True)
        wall, cpu = json.loads(self.answer())
        return wall, cpu

    def end(self) -> None:
        self.process.communicate()


def measured(case: Case, pythons: dict[str, str], cores: str | None, rounds: int) -> dict[str, Any]:
    """Images a second of every program, and what is to be compared."""
    programs = {how: Program(python, case, how, cores) for how, python in pythons.items()}
    load, seconds = os.getloadavg()[0], {how: [] for how in programs}
    for _ in range(rounds):
        for how, program in programs.items():
            seconds[how].append(program.epoch())
    for program in programs.values():
        program.end()
    wall, cpu = ({how: statistics.median(epoch[i] for epoch in each) for how, each in seconds.items()} for i in (0, 1))

    def ratios(middle: dict[str, float]) -> dict[str, float]:
        found = {f"of {peer}": middle[peer] / middle["train"] for peer in PEERS if peer in middle}
        return found | {"linearized over real": middle["linearized"] / middle["frozen"]}

    return {
        "case": case._asdict(),
        "images_per_second": {how: case.steps * case.batch / each for how, each in wall.items()},
        "ratios": {"wall": ratios(wall), "cpu": ratios(cpu)},
        "seconds": seconds,
        "load": [load, os.getloadavg()[0]],
        "programs": {how: program.about for how, program in programs.items()},
    }


def main(options: Options) -> None:
    """Measure and print."""
    peer = options.torch_python or (sys.executable if find_spec("torch") else None)
    if peer is None:
        print("PyTorch is left out: it is not installed here; give a Python that has it by --torch-python")
    pythons = dict.fromkeys(OURS, sys.executable) | (dict.fromkeys(PEERS, peer) if peer else {})
    ask = "import jax; print(jax.default_backend())"  # in a process of its own, to hold no device here
    backend = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    if backend == "cpu":
        print(f"ResNet-50 in bfloat16 is left out: JAX sees no GPU, only {backend}")
    where = {"machine": platform.processor() or platform.machine(), "cores": options.cores or os.cpu_count()}
    print(" ".join(sys.argv), where)
    rows = []
    for case in ON_CPU if backend == "cpu" else ON_GPU:
        row = measured(case, pythons, options.cores, options.rounds)
        rows.append(row)
        print(f"{case.network}, {case.side}×{case.side}, batch {case.batch}, {case.precision}, load {row['load']}")
        for how, pace in row["images_per_second"].items():
            about = row["programs"][how]
            print(f"  {how:>20}: {pace:8.1f} images/s ({about['version']}, {about['device']})")
        for clock, ratios in row["ratios"].items():
            print(f"  by {clock} time, " + "; ".join(f"{name}: {ratio:.2f}" for name, ratio in ratios.items()))
    if options.output:
        options.output.write_text(json.dumps(where | {"command": sys.argv, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == [SERVE]:  # where tyro need not be
        case, how = json.loads(sys.argv[2])
        serve(Case(*case), how)
    else:
        import tyro

        main(tyro.cli(Options, description=__doc__))
