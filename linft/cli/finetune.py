"""`linft finetune`: fine-tune a pretrained network on a task, resumably, with honest choices."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import tyro

from linft.cli import config
from linft.core.errors import LinftError
from linft.core.layer_settings import LayerSettings
from linft.core.recipe import Recipe

if TYPE_CHECKING:
    from linft.core.base import Model
    from linft.core.task import Task
    from linft.training.run_directory import RunOptions

SEEDS = 4  # of the final runs, where validation images choose


@dataclass(frozen=True)
class Data:
    """Images of the task."""

    train_images: int | None = None
    """Training images, drawn with the sample seed; None takes all."""
    test_images: int | None = None
    """Test images, drawn with the sample seed; None takes all."""
    sample_seed: int = 0
    """Seed of the drawn images."""
    download: bool = False
    """Let tfds:NAME download what is not on disk."""
    limit_batches: int | None = None
    """Use the images of so many batches only, of either part: to try things out."""


@dataclass(frozen=True)
class Start:
    """Weights to start from."""

    model: str = "resnet14-cifar10"
    """A shipped model's name, hf:OWNER/NAME, or the path of a file of weights."""
    scratch: str | None = None
    """An architecture at random weights instead; `linft zoo list --architectures` names them."""
    head: Literal["normal", "probe", "zeros"] = "normal"
    """The new head: random, the ridge solution on the training features, or zero."""
    head_scale: float = 0.01
    """Standard deviation of a random head."""
    input_size: int | None = None
    """Side of the network's input in pixels; the model's own if None."""


@dataclass(frozen=True)
class Choices:
    """Choices on validation images, and seeds."""

    validation: float | None = None
    """Share of the training images held out, to choose the learning rate; the final runs have all of them."""
    learning_rates: tuple[float, ...] = ()
    """Learning rates to choose among with --validation; a paper's recipe brings its own."""
    choose_epoch: bool = False
    """With --validation: end the final runs where validation accuracy was greatest."""
    seeds: tuple[int, ...] = ()
    """Seeds of the final runs; with --validation four from --seed on, else --seed alone."""
    ten_crop: bool = False
    """Of several seeds, evaluate ten crops of every test image too."""


@dataclass(frozen=True)
class Machine:
    """How it is computed."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network; parameters stay in float32."""
    accumulate: int = 1
    """Parts that a batch is computed in, where it does not fit in memory at once."""
    devices: int | None = None
    """Devices that share a batch; None: one device, or all where there are several hosts."""
    distributed: bool = False
    """Join the other hosts of this job, as the cluster's environment names them."""
    workers: int = 0
    """Processes that read images which do not fit in memory; 0 reads by threads."""


@dataclass(frozen=True)
class Output:
    """What is written."""

    output: Path = Path("finetuned")
    """Directory for everything that is written."""
    resume: Literal["never", "auto"] = "never"
    """Whether to go on with the run that the directory holds."""
    record_every: int | None = None
    """Measure, and write a checkpoint, every so many steps; about a dozen times by default."""
    keep: int = 3
    """How many of the newest checkpoints are kept, beside the best."""
    log_to: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where metrics go beside metrics.jsonl and metrics.csv; wandb stays offline unless WANDB_MODE says otherwise."""
    dry_run: bool = False
    """Say what the run would be and how long it would take; write nothing."""


@dataclass(frozen=True)
class Finetune:
    """Fine-tune a pretrained network on a task.

    Writes config.yaml, metrics.jsonl and metrics.csv as they come, checkpoints, and at the end
    model.safetensors and result.json. With --validation, a learning rate is chosen on images held out
    of the training part, and final runs over four seeds use all of it.
    """

    task: str
    """digits, npz:PATH, folder:PATH, tfds:NAME or data:NAME."""
    named: Annotated[str | None, tyro.conf.arg(name="recipe")] = None
    """A paper's recipe, whose values other options override: li2020 (decoupled), deshpande2021 and others."""
    config: Path | None = None
    """A YAML file of options, which those given here override."""
    data: Annotated[Data, tyro.conf.OmitArgPrefixes] = Data()
    start: Annotated[Start, tyro.conf.OmitArgPrefixes] = Start()
    training: Annotated[Recipe, tyro.conf.OmitArgPrefixes] = Recipe(
        schedule="cosine", weight_decay=1e-4, batch_size=32, epochs=10, batch_norm="train"
    )
    depth: Annotated[LayerSettings, tyro.conf.OmitArgPrefixes] = LayerSettings()
    choices: Annotated[Choices, tyro.conf.OmitArgPrefixes] = Choices()
    machine: Annotated[Machine, tyro.conf.OmitArgPrefixes] = Machine()
    writing: Annotated[Output, tyro.conf.OmitArgPrefixes] = Output()

    @classmethod
    def parse(cls, arguments: Sequence[str], prog: str) -> Self:
        """The command, with defaults from --recipe and then --config."""
        arguments = config.last_of(config.expand(arguments), "steps", "epochs")
        name, task = (config.value_of(option, arguments) for option in ("recipe", "task"))
        if name is None or task is None:  # a missing task is refused by name
            return tyro.cli(cls, args=arguments, prog=prog)
        from linft.core.paper_recipes import named

        def parsed(n: int) -> Self:
            found = named(name, n)
            default = cls(task, training=found.recipe, depth=found.depth, choices=Choices(learning_rates=found.rates))
            return tyro.cli(cls, args=arguments, prog=prog, default=default)

        command = parsed(1)
        if named(name, 1) == named(name, 10**9):
            return command
        return parsed(len(command.load_task().y_train))  # its defaults depend on the number of images

    def __call__(self) -> None:
        """Train, measure, write."""
        import jax

        self.check()
        if self.machine.distributed:
            jax.distributed.initialize()
        from linft.cli.finetune_steps import carry_out

        carry_out(self)

    def resolved(self) -> dict[str, Any]:
        """Every option that has a part in what is computed, by the name it has in a file of options."""
        apart = {"config", "output", "resume", "keep", "log_to", "dry_run", "workers", "distributed", "devices"}
        return {name: value for name, value in config.flat(self).items() if name not in apart}

    def load_task(self) -> "Task":
        """The task, as many images of it as are asked for."""
        import linft
        from linft.data.lazy import in_memory

        data = self.data
        task = linft.load_task(self.task, download=data.download)
        if data.train_images is not None or data.test_images is not None:
            task = task.subset(data.train_images or len(task.y_train), data.test_images, data.sample_seed)
        if data.limit_batches is not None:
            most = data.limit_batches * self.training.batch_size_for(len(task.y_train))
            task = task.subset(min(most, len(task.y_train)), min(most, len(task.y_test)), data.sample_seed)
        return in_memory(task)

    def model(self, task: "Task") -> "Model":
        """The model before it gets its new layers."""
        import jax

        import linft

        start = self.start
        model = (
            linft.load_model(start.model)
            if start.scratch is None
            else linft.models.create(start.scratch, task.num_classes, jax.random.key(self.training.seed))
        )
        if start.input_size is None:
            return model
        channels = model.preprocessing.input_size[2]
        size = (start.input_size, start.input_size, channels)
        return model.replace(preprocessing=dataclasses.replace(model.preprocessing, input_size=size))

    def started(self, model: "Model", task: "Task", seed: int) -> "Model":
        """The model with its new layers, drawn with a seed."""
        from linft.models.reinitialize import with_new_layers

        return with_new_layers(model, task, seed, self.depth.reinit_groups, self.start.head, self.start.head_scale)

    def conduct(self) -> "RunOptions":
        """Devices and checkpoints."""
        import jax

        from linft.core import parallel
        from linft.training.run_directory import RunOptions
        from linft.training.step import Execution

        machine = self.machine
        many = machine.devices is not None or jax.process_count() > 1
        mesh = parallel.mesh(machine.devices) if many else None
        execution = Execution(machine.precision, machine.accumulate, mesh)
        return RunOptions(execution, machine.workers, self.writing.record_every, self.writing.keep)

    def seeds(self) -> tuple[int, ...]:
        """Seeds of the final runs."""
        first = self.training.seed
        count = 1 if self.choices.validation is None else SEEDS
        return self.choices.seeds or tuple(range(first, first + count))

    def check(self) -> None:
        """Refuse what cannot go together, before anything is loaded."""
        path = self.writing.output
        if self.writing.resume == "never" and (path / "config.yaml").exists() and not self.writing.dry_run:
            raise LinftError(f"{path} holds a run; go on with it by --resume auto, or choose another --output")
        if self.choices.choose_epoch and self.choices.validation is None:
            raise LinftError("--choose-epoch needs images to choose on; give --validation 0.2")
        if len(set(self.choices.seeds)) < len(self.choices.seeds):
            raise LinftError(f"seeds are {self.choices.seeds}; give every seed once")
