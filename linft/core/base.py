"""The nouns: Model, Kernel, Tangent, Trajectory, and the protocol of a Run."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from linft.core import trees
from linft.core.constants import statistics_of
from linft.core.draws import Draws
from linft.core.errors import LinftError
from linft.core.forward_pass import Forward, forward_pass
from linft.core.preprocessing import Images, Preprocessing
from linft.core.recipe import BatchNorm, Recipe
from linft.core.task import Task
from linft.core.trees import Groups, Tree

Outputs = Literal["full", "trace", "pseudo"]
NEW_HEAD = {"head": "new"}  # in `Model.source`


def dense(head: Tree, features: Float[Array, "n d"]) -> Float[Array, "n c"]:
    """The head: f = φ W + b."""
    logits = features @ head["kernel"]
    return logits + head["bias"][None, :] if "bias" in head else logits


class ClassMeans(NamedTuple):
    """Mean features of every source class, and how many images each is the mean of."""

    means: Float[np.ndarray, "classes d"]
    counts: Int[np.ndarray, "classes"]


@dataclass(frozen=True)
class Model:
    """A network as pure functions of (params, x), with frozen batch norm, and what is known of it.

    `apply(params, x)` gives logits [n c] and `features(params, x)` the input [n d] of the last Dense
    layer, the head. Nothing is hidden in it: `replace(params=…)` is a model at other weights.

    Weights and statistics are of one type: float32, or float64 where some weights are. Those of float16 and
    bfloat16 are cast up, once, here: their kernels and updates would be lost to rounding.
    """

    name: str
    params: Tree
    batch_stats: Tree
    """Running statistics of batch norm, and constants of the forward pass, if it has any (`core.constants`)."""
    forward: Forward
    """(params, batch_stats, x) -> (logits, features), batch norm frozen."""
    forward_train: Callable[[Tree, Tree, Array, Array], tuple[Array, Tree]] | None
    """(params, batch_stats, x, key) -> (logits, new batch_stats); None where there is no such mode."""
    head: str
    """Path in params of the last Dense layer."""
    layer_groups: Groups
    """Group name -> path prefixes of its parameters, in order from the input to the head, as fine as a recipe
    can tell them apart: the stem, every block ("stage1.block0"), the head."""
    preprocessing: Preprocessing
    module: nn.Module | None = None
    """The linen module behind `forward`, where there is one."""
    architecture: Mapping[str, Any] | None = None
    """Name and options in the registry, where the model can be saved and loaded by them."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """What it was pretrained on, as JSON has it: data set, class names, recipe, accuracy, licence; and
    `"head": "new"` where the head is not the one it was pretrained with."""
    class_means: ClassMeans | None = None
    """Of the source's training images, at these weights: the source images are seldom there later."""

    def apply(self, params: Tree, x: Float[Array, "n h w ch"]) -> Float[Array, "n c"]:
        """Logits, batch norm frozen."""
        return self.forward(params, self.batch_stats, x)[0]

    def features(self, params: Tree, x: Float[Array, "n h w ch"]) -> Float[Array, "n d"]:
        """Input of the head, batch norm frozen."""
        return self.forward(params, self.batch_stats, x)[1]

    def preprocess(self, images: Any) -> Float[Array, "n h w ch"]:
        """Images (uint8, any size, grey or colour) as this network expects them."""
        return self.preprocessing(images, self.dtype)

    def __post_init__(self):
        dtype = self.dtype
        for name in ("params", "batch_stats"):
            object.__setattr__(self, name, trees.in_precision(getattr(self, name), dtype))

    @property
    def dtype(self) -> Any:
        """The type of the weights, and of the images that the network takes."""
        return trees.precision(self.params)

    @property
    def stages(self) -> Groups:
        """The layer groups of each stage as one: the groups of kernels, unless others are asked for, and of reports."""
        return trees.stages(self.layer_groups)

    @property
    def has_statistics(self) -> bool:
        """Whether it has batch norm, whose statistics may move."""
        return bool(jax.tree.leaves(statistics_of(self.batch_stats)))

    @property
    def num_classes(self) -> int:
        return trees.get(self.params, self.head)["kernel"].shape[1]

    @cached_property
    def digest(self) -> str:
        """Tells these weights, and what is known of the network around them, from any others; computed once."""
        kind = None if self.module is None else type(self.module).__name__
        about = self.architecture, kind, self.head, self.layer_groups, self.preprocessing
        return trees.digest({"params": self.params, "batch_stats": self.batch_stats, "about": repr(about)})

    def check_classes(self, task: Task) -> None:
        """Refuse a task with another number of classes than the model has outputs."""
        if task.num_classes != self.num_classes:
            raise LinftError(
                f"the model has {self.num_classes} outputs and the task {task.num_classes} classes; "
                f"use model.with_head({task.num_classes}, …)"
            )

    def replace(self, **changes: Any) -> Self:
        """The same model with some fields changed."""
        return dataclasses.replace(self, **changes)

    def trained(self, params: Tree, batch_stats: Tree) -> Self:
        """The same network with weights that it was trained to: its head is its own, its class means are unknown."""
        source = {name: value for name, value in self.source.items() if name not in NEW_HEAD}
        return self.replace(params=params, batch_stats=batch_stats, source=source, class_means=None)

    def with_head(
        self,
        classes: int,
        key: Array | None = None,
        init: Literal["normal", "zeros", "probe"] = "normal",
        scale: float = 0.01,
        task: Task | None = None,
        ridge: float = 1e-2,
    ) -> Self:
        """A new head for other classes, at the old one's place in params.

        normal: W ~ N(0, scale²), b = 0. zeros: W = 0, b = 0; the kernel of everything below it is
        then zero. probe: the ridge solution on the task's training features φ, standardised by
        their overall deviation s,  min_W  (1/n) ‖φW + 1bᵀ − E‖² + ridge · s² ‖W‖²,  E one-hot.

        Args:
          classes: number of outputs.
          key: PRNG key, needed for `init="normal"`.
          scale: standard deviation of the normal weights.
          task: the task whose training images the probe is fitted to.
          ridge: relative strength of the probe's penalty.
        """
        old = trees.get(self.params, self.head)["kernel"]
        if classes < 2:
            raise LinftError(f"a head needs 2 classes or more, not {classes}")
        if init == "normal":
            if key is None:
                raise LinftError('with_head(init="normal") needs a key: pass jax.random.key(0)')
            kernel, bias = scale * jax.random.normal(key, (old.shape[0], classes), old.dtype), None
        elif init == "zeros":
            kernel, bias = jnp.zeros((old.shape[0], classes), old.dtype), None
        elif init == "probe":
            if task is None or task.num_classes != classes:
                raise LinftError('with_head(init="probe") needs the task, with as many classes as the head')
            features = self.features_of(task.x_train)
            kernel, bias = _ridge(features, jnp.asarray(task.y_train), classes, ridge)
        else:
            raise LinftError(f"head init is {init!r}; choose among normal, zeros, probe")
        head = {"kernel": kernel, "bias": jnp.zeros(classes, old.dtype) if bias is None else bias}
        return self.replace(params=trees.put(self.params, self.head, head), source={**self.source, **NEW_HEAD})

    def logits_of(self, images: Images, batch: int = 250) -> Float[Array, "n classes"]:
        """Logits of any number of images as they come, a batch at a time."""
        return self._of("logits", images, batch)

    def features_of(self, images: Images, batch: int = 250) -> Float[Array, "n d"]:
        """Features of any number of images as they come, a batch at a time."""
        return self._of("features", images, batch)

    def _of(self, output: Literal["logits", "features"], images: Images, batch: int) -> Array:
        outputs = forward_pass(self.forward, output)
        parts = (images[i : i + batch] for i in range(0, len(images), batch))
        return jnp.concatenate([outputs(self.params, self.batch_stats, self.preprocess(part)) for part in parts])


def _ridge(features: Array, labels: Array, classes: int, ridge: float) -> tuple[Array, Array]:
    targets = jax.nn.one_hot(labels, classes, dtype=features.dtype)
    mean, target_mean = features.mean(0), targets.mean(0)
    centred = features - mean[None, :]
    gram = centred.T @ centred / len(features)
    gram = gram + ridge * jnp.trace(gram) / len(gram) * jnp.eye(len(gram), dtype=gram.dtype)
    kernel = jnp.linalg.solve(gram, centred.T @ (targets - target_mean[None, :]) / len(features))
    return kernel, target_mean - mean @ kernel


@trees.pytree
@dataclass(frozen=True)
class Kernel:
    """An empirical NTK with one block a group, Θ_g(x, x') = J_g(x) J_g(x')ᵀ.

    full: [n c m c], one number for each pair of examples and pair of logits. trace: [n m],
    Σ_c Θ[n,c,m,c]. pseudo: [n m], an unbiased estimate of trace/C by random signs over logits.
    """

    blocks: dict[str, Array]
    outputs: Outputs = field(metadata={"static": True})
    engine: Literal["layerwise", "neural-tangents"] = field(default="layerwise", metadata={"static": True})
    """Which engine computed it."""

    def total(self, weights: Mapping[str, Any] | None = None) -> Array:
        """Σ_g μ_g Θ_g; every weight is 1 by default."""
        weights = dict.fromkeys(self.blocks, 1.0) if weights is None else weights
        return sum(jnp.asarray(weights[g], block.dtype) * block for g, block in self.blocks.items())  # pyright: ignore

    def traces(self) -> dict[str, Float[Array, "n m"]]:
        """Every block summed over equal logits; trace and pseudo blocks as they are."""
        return {g: jnp.einsum("nkmk->nm", b) if b.ndim == 4 else b for g, b in self.blocks.items()}


@trees.pytree
@dataclass(frozen=True)
class Tangent:
    """All that prediction needs of a model and a task: arrays only.

    The linearized logits are f = f0 + Σ_g [Θ_g α_g + (γ_g − 1) J_g w0_g], with weights
    w_g = γ_g w0_g + J_gᵀ α_g. Where the kernel is a trace K [n m], Θ_g stands for K_g ⊗ A_g with
    the output mixing A_g [c c] of trace 1.
    """

    logits_train: Float[Array, "n c"]
    """f0 on the training images."""
    logits_test: Float[Array, "m c"]
    labels_train: Int[Array, "n"] | Float[Array, "n classes"]
    """Classes; of draws their probabilities."""
    labels_test: Int[Array, "m"]
    kernel_train: Kernel
    """Train × train."""
    kernel_test: Kernel
    """Test × train."""
    weights_train: dict[str, Float[Array, "n c"]]
    """J_g w0_g on the training images."""
    weights_test: dict[str, Float[Array, "m c"]]
    squared_norms: dict[str, Float[Array, ""]]
    """‖w0_g‖²."""
    mixing: dict[str, Float[Array, "c c"]]
    """A_g; used with trace and pseudo kernels."""
    batch_norm: BatchNorm = field(default="frozen", metadata={"static": True})
    draws: Draws | None = field(default=None, metadata={"static": True})
    """Where the images to train on are draws, as of a Task."""

    @property
    def num_images(self) -> int:
        """n, of the training images."""
        return len(self.labels_train) // (1 if self.draws is None else self.draws.count)

    def rows(self, recipe: Recipe) -> Int[np.ndarray, "steps batch"]:
        """Which of the rows to train on every step takes."""
        order = recipe.order(self.num_images)
        return order.batches() if self.draws is None else self.draws.rows(order)

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(self.kernel_train.blocks)

    def replace(self, **changes: Any) -> Self:
        """The same tangent with some fields changed."""
        return dataclasses.replace(self, **changes)


class Curves(NamedTuple):
    """Losses and accuracies at recorded steps."""

    train_loss: Float[np.ndarray, "t"]
    test_loss: Float[np.ndarray, "t"]
    train_accuracy: Float[np.ndarray, "t"]
    test_accuracy: Float[np.ndarray, "t"]


class RunningCurves(NamedTuple):
    """Losses and accuracies with the running averages of batch norm's statistics, at steps of their own."""

    steps: Int[np.ndarray, "t"]
    train_loss: Float[np.ndarray, "t"]
    test_loss: Float[np.ndarray, "t"]
    train_accuracy: Float[np.ndarray, "t"]
    test_accuracy: Float[np.ndarray, "t"]


@dataclass(frozen=True)
class Certificate:
    """How far a predicted train-loss curve is to be trusted, as the prediction itself tells."""

    error: float | None
    """Mean |difference| / mean loss of the whole curve that nine of ten such predictions are to keep; None: unknown."""
    within: float
    """An error,"""
    horizon: int
    """the last step up to which it is expected to be kept,"""
    loss: float
    """and the predicted train loss there."""
    shared: bool = False
    """Whether the Jacobians are along the path of another recipe."""

    @property
    def holds(self) -> bool:
        """Whether the whole curve is expected to keep the error `within`."""
        return self.error is not None and self.error <= self.within

    def __str__(self) -> str:
        until = f"within {100 * self.within:g} % up to step {self.horizon}, a train loss of {self.loss:.3g}"
        if self.error is None:
            return f"not to be trusted as a whole; {until}"
        return f"expected to be off by at most {100 * self.error:.2g} %; {until}"


@dataclass(frozen=True)
class Trajectory:
    """What a run gives: losses and accuracies on the whole train and test sets after t updates."""

    steps: Int[np.ndarray, "t"]
    train_loss: Float[np.ndarray, "t"]
    test_loss: Float[np.ndarray, "t"]
    train_accuracy: Float[np.ndarray, "t"]
    test_accuracy: Float[np.ndarray, "t"]
    distance: dict[str, Float[np.ndarray, "t"]]
    """‖w_g − w0_g‖ of every group."""
    norm: dict[str, Float[np.ndarray, "t"]]
    """‖w_g‖ of every group: what weight decay shrinks, and with it the effective rate's denominator."""
    seconds: float
    """Wall time of the run, compilation included."""
    diverged_at: int | None = None
    """First recorded step at which the loss was not finite or 10⁴ times the first; the curves end before it."""
    note: str = ""
    """What the run left out of the recipe, if anything."""
    model: Model | None = None
    """The fine-tuned model, where the run trains weights, or as a kernel that moves predicts it."""
    best: Model | None = None
    """The model at the recorded step of greatest test accuracy, where the run kept checkpoints."""
    certificate: Certificate | None = None
    """Of a prediction that tells how far it is to be trusted."""
    reestimated: Curves | None = None
    """With the training images' statistics at every recorded step, of a real run with batch norm in training mode."""
    running: RunningCurves | None = None
    """With the running averages of batch norm in training mode, where the curves are not: of a prediction that knows
    its weights, at a few steps."""


@runtime_checkable
class Run(Protocol):
    """A way from a recipe to a trajectory; training, replay and closed forms are all of this kind."""

    def __call__(self, recipe: Recipe) -> Trajectory: ...

    def many(self, recipes: Iterable[Recipe]) -> list[Trajectory]:
        """The trajectories of many recipes, in their order."""
        ...


@dataclass(frozen=True)
class OneByOne:
    """A Run from a function of one recipe; many recipes are run one after another."""

    run: Callable[[Recipe], Trajectory]

    def __call__(self, recipe: Recipe) -> Trajectory:
        return self.run(recipe)

    def many(self, recipes: Iterable[Recipe]) -> list[Trajectory]:
        return [self.run(recipe) for recipe in recipes]


def recorded_steps(steps: int, record_every: int | None) -> Int[np.ndarray, "t"]:
    """Steps at which a run is measured: 0, every `record_every` (a dozen points by default), and the last."""
    if record_every is not None and record_every < 1:
        raise LinftError(f"record_every is {record_every}; it must be 1 or more")
    every = record_every or max(1, steps // 12)
    return np.unique(np.append(np.arange(0, steps + 1, every), steps))
