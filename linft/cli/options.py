"""Options that commands share: each group a dataclass, with the method that loads what its options name."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linft.core.errors import LinftError
from linft.core.recipe import Recipe

if TYPE_CHECKING:
    from linft.core.base import Model
    from linft.core.task import Task


@dataclass(frozen=True)
class TaskOptions:
    """The task."""

    task: str
    """digits, npz:PATH, folder:PATH, tfds:NAME or data:NAME."""
    download: bool = False
    """Let tfds:NAME download what is not on disk."""

    def load(self) -> "Task":
        """All of it."""
        import linft

        return linft.load_task(self.task, download=self.download)


@dataclass(frozen=True)
class ImageOptions:
    """Images of the task."""

    train_images: int | None = None
    """Training images, drawn with the sample seed; None takes all."""
    test_images: int | None = None
    """Test images, drawn with the sample seed; None takes all."""
    sample_seed: int = 0
    """Seed of the drawn images, and of new layers, but in finetune and advise, where that is --seed."""

    @property
    def all(self) -> bool:
        """Whether nothing is drawn."""
        return self.train_images is None and self.test_images is None

    def of(self, task: "Task") -> "Task":
        """As many images of a task as are asked for, shuffled; those in files stay there."""
        images = len(task.y_train) if self.train_images is None else self.train_images
        return task.subset(images, self.test_images, self.sample_seed)

    def read(self, task: "Task") -> "Task":
        """The same, read at once if they fit in memory."""
        from linft.data.lazy import in_memory

        return in_memory(self.of(task))


@dataclass(frozen=True)
class ModelOptions:
    """The pretrained network, and its new head."""

    model: str = "resnet14-cifar10"
    """A shipped model's name, hf:OWNER/NAME, or the path of a file of weights."""
    head: Literal["normal", "probe", "zeros"] = "normal"
    """The new head: random, the ridge solution on the training features, or zero."""
    head_scale: float = 0.01
    """Standard deviation of a random head."""
    lora_rank: int | None = None
    """Rank of LoRA's adapters, which then train in place of all below the head; None: all weights train."""
    lora_alpha: float = 16.0
    """The adapters count alpha/rank times."""
    lora_layers: tuple[str, ...] = ("*",)
    """Layer groups with adapters."""

    def load(self) -> "Model":
        """The network as it was pretrained, with its adapters."""
        import linft

        return self.adapted(linft.load_model(self.model))

    def adapted(self, model: "Model") -> "Model":
        """A network with the adapters that are asked for, the same for every seed."""
        import jax

        import linft

        if self.lora_rank is None:
            return model
        return linft.lora(model, self.lora_rank, self.lora_alpha, self.lora_layers, key=jax.random.key(0))

    def with_head(self, task: "Task", seed: int) -> "Model":
        """The network with a head for the task's classes."""
        import jax

        return self.load().with_head(task.num_classes, jax.random.key(seed), self.head, self.head_scale, task=task)

    def with_other_head(self, model: "Model", task: "Task", seed: int) -> "Model":
        """The network with a head by another seed, where heads are drawn."""
        import jax

        if self.head != "normal":
            return model
        return model.with_head(task.num_classes, jax.random.key(seed), self.head, self.head_scale)

    def with_new_layers(self, model: "Model", task: "Task", seed: int, groups: int) -> "Model":
        """A loaded network whose last layer groups are new, a head for the task's classes among them."""
        from linft.models.reinitialize import with_new_layers

        return with_new_layers(model, task, seed, groups, self.head, self.head_scale)


@dataclass(frozen=True)
class KernelOptions:
    """The kernel of predictions."""

    kernel: Literal["full", "trace", "pseudo"] = "full"
    """Kernel that predictions use."""
    engine: Literal["auto", "layerwise", "neural-tangents"] = "auto"
    """What computes it."""
    kernel_batch: int = 32
    """Images whose activations are in memory at once while it is computed."""

    def arguments(self) -> dict[str, Any]:
        """As `predict.tangent` and what calls it take them."""
        return {"outputs": self.kernel, "engine": self.engine, "batch_size": self.kernel_batch}


@dataclass(frozen=True)
class OutputOptions:
    """What is written."""

    output: Path
    """Directory for everything that is written; the same command goes on from what it holds."""
    record_every: int | None = None
    """Measure every so many steps; by default about a dozen times."""


@dataclass(frozen=True)
class PretrainingOptions:
    """What pretraining starts from."""

    model: str | None = None
    """Architecture to start at random weights; `linft zoo list --architectures` names them."""
    init: str | None = None
    """A model to start from, with a new head, instead of an architecture: a shipped one's name or a file."""
    options: dict[str, int] = field(default_factory=dict)
    """Options of the architecture, such as `growth 6 width 12`."""

    def check(self) -> None:
        """Refuse both and neither, before anything is loaded."""
        if (self.model is None) == (self.init is None):
            raise LinftError("give either --model (an architecture, at random weights) or --init (a model)")

    @property
    def name(self) -> str:
        """Of the architecture or the model."""
        return self.model or Path(str(self.init)).stem

    def initial_model(self, task: "Task", seed: int) -> "Model":
        """The network before it is trained, with a head for the task's classes."""
        from linft.training.pretrain import initial_model

        return initial_model(task, self.model, self.init, self.options, seed)


@dataclass(frozen=True)
class ZooFileOptions:
    """The file of a zoo."""

    zoo: Path = Path("zoo")
    """Directory of the zoo, made where there is none."""
    name: str | None = None
    """Name in the zoo; by default the model's own, or that of the repository, file or directory it comes from."""
    dtype: Literal["float32", "float16"] = "float32"
    """Precision of the file."""
    overwrite: bool = False
    """Replace a model of that name."""

    def path(self, model: "Model") -> Path:
        """Where the model is to be written; a taken name is refused, unless it is to be replaced."""
        from linft.zoo.directory import path_of, unused

        return (path_of if self.overwrite else unused)(self.zoo, self.name or model.name)

    def save(self, model: "Model") -> "tuple[Model, Path]":
        """The model by its name in the zoo, and where it was written."""
        import linft

        path = self.path(model)
        named = model.replace(name=self.name or model.name)
        linft.save_model(named, path, self.dtype)
        return named, path


def with_length(recipe: Recipe, **length: float) -> Recipe:
    """The recipe, with this number of steps or epochs where it has none.

    Example:
      >>> with_length(Recipe(), steps=40).steps, with_length(Recipe(epochs=2), steps=40).steps
      (40, None)
    """
    return recipe.replace(**length) if recipe.steps is None and recipe.epochs is None else recipe
