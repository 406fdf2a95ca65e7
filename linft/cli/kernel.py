"""`linft kernel`: the empirical NTK of a model on a task, on disk, tile by tile."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from linft.cli.size import to_bytes
from linft.core.errors import LinftError
from linft.runtime.progress import Progress

if TYPE_CHECKING:
    from jax.sharding import Mesh
    from rich.console import Console

    from linft.core.base import Model
    from linft.core.task import Task

LINES = 20  # of a kernel, where there is no terminal


@dataclass(frozen=True)
class Data:
    """Images of the task."""

    train_images: int | None = None
    """Training images, drawn with the sample seed; None takes all."""
    test_images: int | None = None
    """Test images, drawn with the sample seed; None takes all."""
    test: bool = True
    """Whether to compute Θ(test, train) beside Θ(train, train)."""
    sample_seed: int = 0
    """Seed of the drawn images and of the head."""
    download: bool = False
    """Let tfds:NAME download what is not on disk."""


@dataclass(frozen=True)
class Network:
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
class Output:
    """What is written."""

    output: Path = Path("kernel.zarr")
    """Directory of the kernel, a zarr v3 group."""
    resume: bool = False
    """Go on with the kernel that the directory holds."""


@dataclass(frozen=True)
class Kernel:
    """Compute a tangent kernel of any size on disk, so that a call that was ended goes on where it was.

    Writes a zarr v3 group with the arrays train/GROUP, Θ(train, train), and test/GROUP, Θ(test, train):
    [n c m c] for full kernels, [n m] for others. `linft.ntk.load_kernel` or any reader of zarr reads them.
    """

    task: str
    """digits, npz:PATH, folder:PATH, tfds:NAME or data:NAME."""
    data: Annotated[Data, tyro.conf.OmitArgPrefixes] = Data()
    network: Annotated[Network, tyro.conf.OmitArgPrefixes] = Network()
    blocks: Annotated[Blocks, tyro.conf.OmitArgPrefixes] = Blocks()
    machine: Annotated[Machine, tyro.conf.OmitArgPrefixes] = Machine()
    writing: Annotated[Output, tyro.conf.OmitArgPrefixes] = Output()

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
        path = self.writing.output
        resumes = (path / "zarr.json").exists()
        if self.machine.distributed:  # before any of them makes it
            from linft.core import parallel

            resumes = parallel.any_host(resumes)
        if resumes and not self.writing.resume:
            raise LinftError(f"{path} holds a kernel; go on with it by --resume, or choose another --output")
        memory = None if self.machine.memory is None else to_bytes(self.machine.memory)
        import jax
        from rich.console import Console
        from rich.filesize import decimal

        from linft.core import trees
        from linft.ntk import empirical
        from linft.ntk.engine import How
        from linft.ntk.tiled import manifest, store
        from linft.runtime import multihost

        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout, force=True)
        first = jax.process_index() == 0
        logging.getLogger("linft").setLevel(logging.INFO if first else logging.WARNING)
        console = Console(quiet=not first)
        mesh = self.mesh()
        before = manifest.read(path) if resumes else None
        task = self.load_task()
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
        x_test = model.preprocess(task.x_test) if self.data.test else None
        images = f"{len(x_train)} training" + ("" if x_test is None else f" and {len(x_test)} test")
        place = jax.default_backend() + ("" if mesh is None else f", {mesh.size} devices, {jax.process_count()} hosts")
        console.print(f"{model.name} → {task.name}: {images} images, on {place}", soft_wrap=True)
        train, test = empirical.works(model, x_train, x_test, what.groups or None, how)
        store.begin(path, model, x_train, train, x_test, test, labels=labels, **self.options())
        share = (jax.process_index(), jax.process_count())
        with told(console) as tell:
            for name, work in (("train", train), ("test", test)):
                if work is not None:
                    store.fill(path, name, work, partial(tell, f"tiles of {name}"), share)
        multihost.meet(mesh)
        found = manifest.read(path)
        shapes = " and ".join(f"{name} {found[f'{name} shape']}" for name in ("train", "test")[: 1 + self.data.test])
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

    def load_task(self) -> "Task":
        """The task, as many images of it as are asked for."""
        import linft

        data = self.data
        task = linft.load_task(self.task, download=data.download)
        return task.subset(data.train_images or len(task.y_train), data.test_images, data.sample_seed)

    def model(self, task: "Task") -> "Model":
        """The model with the head that is asked for."""
        import jax

        import linft

        network = self.network
        model = linft.load_model(network.model)
        if network.head == "own":
            model.check_classes(task)
            return model
        key = jax.random.key(self.data.sample_seed)
        return model.with_head(task.num_classes, key, network.head, network.head_scale, task=task)


@contextmanager
def told(console: "Console") -> Iterator[Progress]:
    """A function (what, done, total) that moves a bar, or where there is no terminal prints a line now and then."""
    from linft.cli.progress import bars

    if console.is_terminal:
        with bars(console) as move:
            yield move
        return
    last: dict[str, int] = {}

    def say(what: str, done: int, total: int) -> None:
        if done == total or done >= last.get(what, 0) + total / LINES:
            last[what] = done
            console.print(f"{what}: {done}/{total}", soft_wrap=True)

    yield say
