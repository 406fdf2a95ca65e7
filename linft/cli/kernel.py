"""`linft kernel`: the empirical NTK of a model on a task, on disk, tile by tile."""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from linft.cli.options import ImageOptions, ModelOptions, TaskOptions
from linft.core.errors import LinftError

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from linft.core.base import Model
    from linft.core.task import Task

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@dataclass(frozen=True)
class KernelNetwork:
    """The network whose kernel it is."""

    model: str = "resnet14-cifar10"
    """A shipped model's name, hf:OWNER/NAME, or the path of a file of weights."""
    head: Literal["own", "probe", "normal", "zeros"] = "probe"
    """The head: the model's own, or a new one: the ridge solution on the training features, random, or zero."""
    head_scale: float = 0.01
    """Standard deviation of a random head."""


@dataclass(frozen=True)
class Blocks:
    """What is computed."""

    test: bool = True
    """Whether to compute Θ(test, train) beside Θ(train, train)."""
    outputs: Literal["full", "trace", "pseudo"] = "full"
    """A number for each pair of images and pair of logits, or for each pair of images only."""
    groups: tuple[str, ...] = ()
    """Stages (stage3) or blocks (stage3.block1), by name; all stages by default."""
    split_vectors: bool = False
    """Blocks of their own for norms and biases, as recipes need that do not decay them."""
    draws: int = 1
    """Random sign vectors of a pseudo kernel."""
    seed: int = 0
    """Seed of the random signs."""


@dataclass(frozen=True)
class Machine:
    """How it is computed."""

    engine: Literal["auto", "layerwise", "neural-tangents"] = "auto"
    """What computes the kernel."""
    precision: Literal["highest", "tensorfloat32", "bfloat16"] = "highest"
    """Of the matrix products."""
    tile: int | None = None
    """Images of a tile; by default 256, or as many as memory allows."""
    memory: str | None = None
    """Memory that may be used, such as 4GiB; what is free by default."""
    devices: int | None = None
    """Devices that share the work; all by default."""
    distributed: bool = False
    """Share the work with the other hosts of this job, as the cluster's environment names them."""


@dataclass(frozen=True)
class ComputeKernel:
    """Compute a tangent kernel of any size on disk, so that a call that was ended goes on where it was.

    Writes a zarr v3 group with the arrays train/GROUP, Θ(train, train), and test/GROUP, Θ(test, train):
    [n c m c] for full kernels, [n m] for others. `linft.ntk.load_kernel` or any reader of zarr reads them.
    """

    task: Annotated[TaskOptions, tyro.conf.OmitArgPrefixes]
    output: Path = Path("kernel.zarr")
    """Directory of the kernel, a zarr v3 group."""
    resume: bool = False
    """Go on with the kernel that the directory holds."""
    images: Annotated[ImageOptions, tyro.conf.OmitArgPrefixes] = ImageOptions()
    network: Annotated[KernelNetwork, tyro.conf.OmitArgPrefixes] = KernelNetwork()
    blocks: Annotated[Blocks, tyro.conf.OmitArgPrefixes] = Blocks()
    machine: Annotated[Machine, tyro.conf.OmitArgPrefixes] = Machine()

    def __call__(self) -> None:
        """Compute what is missing, and say what there is."""
        if not self.machine.distributed:
            return self.compute()
        from linft.runtime import multihost

        multihost.join()
        try:
            return self.compute()
        except LinftError as error:
            multihost.leave(str(error))

    def compute(self) -> None:
        """What is missing."""
        path = self.output
        resumes = (path / "zarr.json").exists()
        if self.machine.distributed:  # before any of them makes it
            from linft.core import parallel

            resumes = parallel.any_host(resumes)
        if resumes and not self.resume:
            raise LinftError(f"{path} holds a kernel; go on with it by --resume, or choose another --output")
        memory = None if self.machine.memory is None else to_bytes(self.machine.memory)
        import jax
        from rich.filesize import decimal

        from linft.cli.terminal import counts, terminal
        from linft.core import trees
        from linft.ntk import empirical
        from linft.ntk.engine import How
        from linft.ntk.tiled import manifest, store
        from linft.runtime import multihost

        console = terminal(first=jax.process_index() == 0)
        mesh = self.mesh()
        before = manifest.read(path) if resumes else None
        task = self.images.of(self.task.load())
        model = self.model(task)
        what, machine = self.blocks, self.machine
        if what.split_vectors:
            model = model.replace(layer_groups=trees.split_vectors(model.stages))
        labels = empirical.labels_of(model, what.groups or None)
        how = How(
            what.outputs,
            machine.engine,
            draws=what.draws,
            seed=what.seed,
            precision=machine.precision,
            memory=memory,
            tile=before["train tile"][0] if before and machine.tile is None else machine.tile,
            passes=tuple(map(tuple, before["train passes"])) if before else None,
            mesh=mesh,
        )
        x_train = model.preprocess(task.x_train)
        x_test = model.preprocess(task.x_test) if what.test else None
        images = f"{len(x_train)} training" + ("" if x_test is None else f" and {len(x_test)} test")
        place = jax.default_backend() + ("" if mesh is None else f", {mesh.size} devices, {jax.process_count()} hosts")
        console.print(f"{model.name} → {task.name}: {images} images, on {place}", soft_wrap=True)
        train, test = empirical.works(model, x_train, x_test, what.groups or None, how)
        store.begin(path, model, x_train, train, x_test, test, labels=labels, **self.options())
        share = (jax.process_index(), jax.process_count())
        with counts(console) as tell:
            for name, work in (("train", train), ("test", test)):
                if work is not None:
                    store.fill(path, name, work, partial(tell, f"tiles of {name}"), share)
        multihost.meet(mesh)
        found = manifest.read(path)
        shapes = " and ".join(f"{name} {found[f'{name} shape']}" for name in ("train", "test")[: 1 + what.test])
        size = decimal(sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
        groups = ", ".join(train.groups)
        console.print(f"Kernel: {path}, {shapes} for {groups}; {size} on disk", markup=False, soft_wrap=True)

    def mesh(self) -> "Mesh | None":
        """The devices, of all hosts; None where there is one."""
        import jax

        from linft.core import parallel

        devices = self.machine.devices
        if jax.process_count() > 1 and devices is not None:
            raise LinftError("several hosts share all of their devices; leave out --devices")
        return None if (devices or jax.device_count()) == 1 else parallel.mesh(devices)

    def options(self) -> dict[str, Any]:
        """What values depend on beside the model, the images and the tiles."""
        options: dict[str, Any] = {"precision": self.machine.precision}
        if self.blocks.outputs == "pseudo":
            options |= {"draws": self.blocks.draws, "seed": self.blocks.seed}
        return options

    def model(self, task: "Task") -> "Model":
        """The model with the head that is asked for."""
        network = self.network
        if network.head != "own":
            options = ModelOptions(network.model, network.head, network.head_scale)
            return options.with_head(task, self.images.sample_seed)
        model = ModelOptions(network.model).load()
        model.check_classes(task)
        return model


def to_bytes(text: str) -> int:
    """Bytes of a size such as 4GiB, 500 MB or 1.5TiB.

    Raises:
      LinftError: it is no such size, or less than a byte.

    Example:
      >>> to_bytes("1.5KiB"), to_bytes("500 MB")
      (1536, 500000000)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", text.strip())
    size = int(float(found[1]) * UNITS[found[2]]) if found and found[2] in UNITS else 0
    if size < 1:
        raise LinftError(f"{text!r} is no size of memory; give one such as 4GiB or 500MB")
    return size
