"""Seconds and memory that loading a ResNet-101 takes, beside timm's own loading of the same file.

    python benchmarks/load.py

Each loading is a process of its own; importing the packages is not counted. Memory is the peak of
the resident set above what it was before, which counts the mapped file, as a multiple of the file's
size. Where timm is not installed there is only ours, of a file of ours.
"""

import multiprocessing
import re
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

NAME = "resnet101"


def kilobytes(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


def measured(load: Callable[[], object]) -> tuple[float, int]:
    """Seconds, and bytes at the peak above what was there before."""
    before, start = kilobytes("VmRSS"), time.perf_counter()
    load()
    return time.perf_counter() - start, 1024 * (kilobytes("VmHWM") - before)


def ours(path: Path) -> tuple[float, int]:
    """`load_model`, until all arrays are there."""
    import jax
    import jax.numpy as jnp

    from linft.zoo.load import load_model

    jax.block_until_ready(jnp.ones(3) + 1)  # starts the backend
    return measured(lambda: jax.block_until_ready(load_model(path).params))


def timms(path: Path) -> tuple[float, int]:
    """timm's `create_model` with a checkpoint."""
    timm = import_timm()
    return measured(lambda: timm.create_model(NAME, checkpoint_path=str(path)))


def write_timms(path: Path) -> None:
    """The state dict of a network of timm at random weights."""
    from safetensors.torch import save_file

    save_file(import_timm().create_model(NAME).state_dict(), path)


def write_ours(path: Path) -> None:
    """A network of ours at random weights."""
    import jax

    from linft import save_model
    from linft.models import create

    save_model(create(NAME, 1000, jax.random.key(0)), path)


def import_timm():
    """timm, where torchvision's compiled part may not load: its Python part asks for two operators of it."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms(Tensor dets, Tensor scores, float iou_threshold)", "qnms(Tensor a, Tensor b, float c)"):
        library.define(f"{operator} -> Tensor")
    import timm

    return timm


def main() -> None:
    loaders = {"linft": ours} | ({"timm": timms} if find_spec("timm") else {})
    with (
        tempfile.TemporaryDirectory() as directory,
        multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool,
    ):
        path = Path(directory) / f"{NAME}.safetensors"
        pool.apply(write_timms if "timm" in loaders else write_ours, [path])
        size = path.stat().st_size
        print(f"{NAME}, {size / 1e6:.0f} MB")
        for name, loader in loaders.items():
            seconds, peak = pool.apply(loader, [path])
            print(f"{name:>6}: {seconds:5.2f} s, peak {peak / size:.2f} times the file")


if __name__ == "__main__":
    main()
