"""`linft finetune`: fine-tune a pretrained network on a task, resumably, with honest choices."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import tyro

from linft.cli import config
from linft.cli.options import ImageOptions, ModelOptions, OutputOptions, TaskOptions
from linft.core.errors import LinftError
from linft.core.layer_settings import LayerSettings
from linft.core.recipe import Recipe

if TYPE_CHECKING:
    from rich.console import Console

    from linft.core.base import Model
    from linft.core.task import Task
    from linft.training.history import Track, Tracking
    from linft.training.run_directory import RunOptions

SEEDS = 4  # of the final runs, where validation images choose


@dataclass(frozen=True)
class FinetunedNetwork:
    """The network, where it is not as it was pretrained."""

    scratch: str | None = None
    """An architecture at random weights instead; `linft zoo list --architectures` names them."""
    input_size: int | None = None
    """Side of the network's input in pixels; the model's own if None."""
    drop_path_rate: float | None = None
    """How often the last residual block is left out in training mode, those before it less; the model's own if None."""


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
class Hardware:
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
class RunFiles:
    """What is kept of the run, and whether it goes on."""

    resume: Literal["never", "auto"] = "never"
    """Whether to go on with the run that the directory holds."""
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

    task: Annotated[TaskOptions, tyro.conf.OmitArgPrefixes]
    named: Annotated[str | None, tyro.conf.arg(name="recipe")] = None
    """A paper's recipe, whose values other options override: li2020 (decoupled), deshpande2021 and others."""
    config: Path | None = None
    """A YAML file of options, which those given here override."""
    limit_batches: int | None = None
    """Use the images of so many batches only, of either part: to try things out."""
    images: Annotated[ImageOptions, tyro.conf.OmitArgPrefixes] = ImageOptions()
    model: Annotated[ModelOptions, tyro.conf.OmitArgPrefixes] = ModelOptions()
    network: Annotated[FinetunedNetwork, tyro.conf.OmitArgPrefixes] = FinetunedNetwork()
    training: Annotated[Recipe, tyro.conf.OmitArgPrefixes] = Recipe(
        schedule="cosine", weight_decay=1e-4, batch_size=32, epochs=10, batch_norm="train"
    )
    depth: Annotated[LayerSettings, tyro.conf.OmitArgPrefixes] = LayerSettings()
    choices: Annotated[Choices, tyro.conf.OmitArgPrefixes] = Choices()
    machine: Annotated[Hardware, tyro.conf.OmitArgPrefixes] = Hardware()
    writing: Annotated[OutputOptions, tyro.conf.OmitArgPrefixes] = OutputOptions(Path("finetuned"))
    files: Annotated[RunFiles, tyro.conf.OmitArgPrefixes] = RunFiles()

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
            default = cls(
                TaskOptions(task), training=found.recipe, depth=found.depth, choices=Choices(learning_rates=found.rates)
            )
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
        from linft.cli.terminal import terminal
        from linft.training.dry_run import plan

        console = terminal(first=jax.process_index() == 0)
        task = self.load_task()
        model = self.load_model(task)
        recipe = self.depth.apply(self.training, model.layer_groups)
        console.print(
            f"{model.name} → {task.name}: {len(task.y_train)} training and {len(task.y_test)} test images, "
            f"{recipe.num_steps(len(task.y_train))} steps of {recipe.batch_size_for(len(task.y_train))}, "
            f"on {jax.device_count()} × {jax.default_backend()}",
            soft_wrap=True,
        )
        if self.files.dry_run:
            show(plan(self.started(model, task, recipe.seed), task, recipe, self.run_options().execution))
        elif self.choices.validation is None and len(self.seeds()) == 1:
            train_once(self, console, model, task, recipe)
        else:
            choose_and_train(self, console, model, task, recipe)

    def resolved(self) -> dict[str, Any]:
        """Every option that has a part in what is computed, by the name it has in a file of options."""
        apart = {"config", "output", "resume", "keep", "log_to", "dry_run", "workers", "distributed", "devices"}
        return {name: value for name, value in config.flat(self).items() if name not in apart}

    def load_task(self) -> "Task":
        """The task, as many images of it as are asked for."""
        from linft.data.lazy import in_memory

        task = self.task.load()
        if not self.images.all:
            task = self.images.of(task)
        if self.limit_batches is not None:
            most = self.limit_batches * self.training.batch_size_for(len(task.y_train))
            sizes = min(most, len(task.y_train)), min(most, len(task.y_test))
            task = ImageOptions(*sizes, self.images.sample_seed).of(task)
        return in_memory(task)

    def load_model(self, task: "Task") -> "Model":
        """The model before it gets its new layers."""
        import jax

        import linft

        scratch, side, drop = self.network.scratch, self.network.input_size, self.network.drop_path_rate
        model = (
            linft.load_model(self.model.model)
            if scratch is None
            else linft.models.create(scratch, task.num_classes, jax.random.key(self.training.seed))
        )
        if drop is not None:
            model = linft.models.with_options(model, drop_path_rate=drop)
        model = self.model.adapted(model)
        if side is None:
            return model
        channels = model.preprocessing.input_size[2]
        size = (side, side, channels)
        return model.replace(preprocessing=dataclasses.replace(model.preprocessing, input_size=size))

    def started(self, model: "Model", task: "Task", seed: int) -> "Model":
        """The model with its new layers, drawn with a seed."""
        return self.model.with_new_layers(model, task, seed, self.depth.reinit_groups)

    def run_options(self) -> "RunOptions":
        """Devices and checkpoints."""
        import jax

        from linft.core import parallel
        from linft.training.run_directory import RunOptions
        from linft.training.step import Execution

        machine = self.machine
        many = machine.devices is not None or jax.process_count() > 1
        mesh = parallel.mesh(machine.devices) if many else None
        execution = Execution(machine.precision, machine.accumulate, mesh)
        return RunOptions(execution, machine.workers, self.writing.record_every, self.files.keep)

    def seeds(self) -> tuple[int, ...]:
        """Seeds of the final runs."""
        first = self.training.seed
        count = 1 if self.choices.validation is None else SEEDS
        return self.choices.seeds or tuple(range(first, first + count))

    def check(self) -> None:
        """Refuse what cannot go together, before anything is loaded."""
        path = self.writing.output
        if self.files.resume == "never" and (path / "config.yaml").exists() and not self.files.dry_run:
            raise LinftError(f"{path} holds a run; go on with it by --resume auto, or choose another --output")
        if self.choices.choose_epoch and self.choices.validation is None:
            raise LinftError("--choose-epoch needs images to choose on; give --validation 0.2")
        if self.network.scratch is not None and self.model.lora_rank is not None:
            raise LinftError("--lora-rank adapts a pretrained network; leave it out with --scratch")
        if len(set(self.choices.seeds)) < len(self.choices.seeds):
            raise LinftError(f"seeds are {self.choices.seeds}; give every seed once")


def train_once(command: Finetune, console: "Console", model: "Model", task: "Task", recipe: Recipe) -> None:
    """One run, in the output directory."""
    from linft.training.run_directory import run_in

    path, (seed,) = command.writing.output, command.seeds()
    opened = _tracking(command, console, path, recipe.num_steps(len(task.y_train)))
    done = run_in(
        path,
        command.started(model, task, seed),
        task,
        recipe.replace(seed=seed),
        config=command.resolved(),
        conduct=command.run_options(),
        tracking=opened,
    )
    final = done.result.final
    console.print(
        f"Test accuracy {final.accuracy:.1%}, mean per class {final.mean_per_class_accuracy:.1%}, "
        f"loss {final.loss:.4f}, calibration error {final.calibration_error:.1%}"
    )
    console.print(f"Results: {path}", soft_wrap=True)


def choose_and_train(command: Finetune, console: "Console", model: "Model", task: "Task", recipe: Recipe) -> None:
    """Runs that choose on held-out images, if that is asked for, then one with every seed, and their ensemble."""
    import jax

    from linft.runtime import schema
    from linft.runtime.versions import versions
    from linft.training.result import Choice, SeedsResult
    from linft.training.run_directory import RESULT, begin
    from linft.training.validation import choose, ensemble, mean_and_deviation, over_seeds, ten_crop

    path, choices, config, conduct = command.writing.output, command.choices, command.resolved(), command.run_options()
    begin(path, config, {"weights": model.digest, "images": task.digest})

    def start(part: "Task", seed: int) -> "Model":
        return command.started(model, part, seed)

    def opened(directory: Path, steps: int) -> "Tracking":
        return _tracking(command, console, directory, steps)

    chosen, until = None, None
    if choices.validation is not None:
        rates = choices.learning_rates or (recipe.learning_rate,)
        choice = choose(path / "choice", start, task, recipe, rates, choices.validation, opened, config, conduct)
        recipe = recipe.replace(learning_rate=choice.rate)
        if choices.choose_epoch:
            until = max(1, round(choice.share * recipe.num_steps(len(task.y_train))))
        chosen = Choice(learning_rate=choice.rate, until=until, tried=choice.tried)
        console.print(f"Learning rate {choice.rate:g}: validation accuracy {choice.accuracy:.1%}")
    finals, models = over_seeds(path, start, task, recipe, command.seeds(), opened, config, conduct, until)
    mean, deviation = mean_and_deviation(list(finals.values()))
    result = SeedsResult(
        config=config,
        versions=versions(),
        choice=chosen,
        seeds=finals,
        mean=mean,
        standard_deviation=deviation,
        ensemble=ensemble(models, task),
        ten_crop=ten_crop(models, task) if choices.ten_crop else None,
    )
    if jax.process_index() == 0:
        schema.write(path / RESULT, result)
    spread = deviation.accuracy
    console.print(
        f"Test accuracy {mean.accuracy:.2%}{'' if spread is None else f' ± {spread:.2%}'} over "
        f"{len(models)} seeds, of their ensemble {result.ensemble.accuracy:.2%}"
    )
    if (crops := result.ten_crop) is not None:
        console.print(f"Ten crops: {crops.mean.accuracy:.2%}, of the ensemble {crops.ensemble.accuracy:.2%}")
    console.print(f"Results: {path}", soft_wrap=True)


def _tracking(command: Finetune, console: "Console", path: Path, steps: int) -> "Tracking":
    """Files and the terminal, of the first host only."""
    import jax

    from linft.cli.terminal import steps_bar
    from linft.runtime import metrics_log

    @contextmanager
    def opened(step: int | None) -> Iterator["Track"]:
        if jax.process_index() > 0:
            yield lambda step, values: None
            return
        sinks, config = command.files.log_to, command.resolved()
        with metrics_log.open(path, step, sinks, config) as write, steps_bar(console, path.name, steps) as show:

            def track(step: int, values: Mapping[str, Any]) -> None:
                write(step, values)
                show(step, values)

            yield track

    return opened


def show(planned: dict[str, Any]) -> None:
    """What a run would be."""
    from linft.cli.terminal import print_lines, print_table

    rows = [
        [group, f"{row['parameters']:,}", f"{row['learning_rate']:g}", f"{row['decay']:g}", row["towards"]]
        for group, row in planned["groups"].items()
    ]
    print_table(["layer group", "parameters", "learning rate", "decay", "towards"], rows)
    shapes = {name: shape for row in planned["groups"].values() for name, shape in row["shapes"].items()}
    print_table(["parameter", "shape"], [[name, "×".join(map(str, shape))] for name, shape in shapes.items()])
    step = planned["step_memory"]
    print_lines(
        [
            f"{planned['parameters']:,} parameters, {planned['trained']:,} trained",
            f"{planned['steps']} steps of {planned['batch_size']} images, {planned['steps_per_epoch']} an epoch",
            f"memory: weights and optimizer {_megabytes(planned['state_memory'])}, "
            f"images {_megabytes(planned['images_memory'])}, a step {'unknown' if step is None else _megabytes(step)}",
            f"time: {planned['seconds_per_step']:.3f} s a step, {_duration(planned['seconds'])} in all, "
            "measurements and checkpoints apart",
        ]
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
