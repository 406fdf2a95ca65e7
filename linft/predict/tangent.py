"""The Tangent of a model on a task, the one place where prediction meets the network; and its file."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from linft.core import trees
from linft.core.base import BatchNorm, Kernel, Model, Outputs, Tangent
from linft.core.draws import Draws
from linft.core.errors import LinftError, no_derivative
from linft.core.forward_pass import Forward, equal_batches, equal_size, forward_pass
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.core.trees import Groups, Tree
from linft.models.training_mode import in_training_mode, needs, with_statistics
from linft.ntk.empirical import Engine, empirical_ntk, train_test_ntk
from linft.ntk.tiled import memory
from linft.runtime.atomic_files import whole
from linft.runtime.progress import Count

MIXING_IMAGES = 8


def tangent(
    model: Model,
    task: Task,
    *,
    groups: Groups | Sequence[str] | None = None,
    outputs: Outputs = "full",
    engine: Engine = "auto",
    batch_size: int = 32,
    draws: int = 8,
    batch_norm: BatchNorm = "frozen",
    progress: Count | None = None,
) -> Tangent:
    """Logits, kernels, J_g w0_g and norms of a model on a task's training and test images.

    Args:
      groups: a partition of the parameters; stages by default. Recipes that tell the layer groups of a
        stage apart, or decay kernels only, need `optim.kernel_groups(model.layer_groups, recipe)`.
      outputs, engine, batch_size, progress: as in `empirical_ntk`.
      draws: random sign vectors of a pseudo kernel.
      batch_norm: frozen; or train, the network with the statistics of the training images as functions of the
        weights (`models.training_mode`), for recipes with batch norm in training mode.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(10, 10)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=4)
      >>> tangent(model, task, outputs="trace").kernel_test.total().shape
      (10, 10)
    """
    model.check_classes(task)
    model = in_mode(model, task, batch_norm, progress)
    x_train, x_test = model.preprocess(task.x_train), model.preprocess(task.x_test)
    train, test = train_test_ntk(
        model,
        x_train,
        x_test,
        groups=groups,
        outputs=outputs,
        engine=engine,
        batch_size=batch_size,
        draws=draws,
        progress=progress,
    )
    names = tuple(train.blocks)
    few = None
    if outputs == "trace":  # how the logits mix is measured on a few images
        few = empirical_ntk(model, x_train[:MIXING_IMAGES], groups=groups, engine=engine, batch_size=batch_size)
    labels = trees.labels(model.params, groups if isinstance(groups, dict) else model.stages)
    logits_train, logits_test = (outputs_on(model, x) for x in (x_train, x_test))
    weights_train, weights_test = (pushed(model, x, model.params, labels, names) for x in (x_train, x_test))
    squares = trees.dots_by_group(model.params, model.params, labels, jax.tree.leaves(labels))
    return Tangent(
        logits_train=logits_train,
        logits_test=logits_test,
        labels_train=jnp.asarray(task.y_train),
        labels_test=jnp.asarray(task.y_test),
        kernel_train=train,
        kernel_test=test,
        weights_train=weights_train,
        weights_test=weights_test,
        squared_norms={group: squares[group] for group in names},
        mixing=mixing(model, train, few, labels),
        batch_norm=batch_norm,
        draws=task.draws,
    )


def mode(model: Model, recipe: Recipe) -> BatchNorm:
    """Batch norm as the recipe has it, where the network has any."""
    return "train" if recipe.batch_norm == "train" and model.has_statistics else "frozen"


def in_mode(model: Model, task: Task, batch_norm: BatchNorm, progress: Count | None = None) -> Model:
    """The model that is linearized: in training mode where it is asked for, and another than evaluation mode."""
    if batch_norm == "frozen" or not model.has_statistics:
        return model
    advice = 'predict with frozen batch norm, recipe.replace(batch_norm="frozen"), or use a smaller network'
    memory.check(needs(model), memory.budget(None), advice)
    return in_training_mode(model, task.x_train, progress=progress)


def with_value(model: Model, task: Task, batch_norm: BatchNorm) -> Model:
    """The model with the value of `in_mode`, and not its derivative."""
    if batch_norm == "frozen" or not model.has_statistics:
        return model
    return with_statistics(model, task.x_train)


def outputs_on(model: Model, x: Array, batch_size: int = 64) -> Float[Array, "n c"]:
    """f0, in equal batches."""
    outputs = partial(forward_pass(model.forward, "logits"), model.params, model.batch_stats)
    return _in_batches(outputs, x, batch_size)


def pushed(
    model: Model, x: Array, vector: Tree, labels: Tree, groups: Sequence[str], batch_size: int = 64
) -> dict[str, Float[Array, "n c"]]:
    """J_g u_g of every group, for u shaped like the weights, in equal batches.

    Raises:
      LinftError: one is not finite, though a kernel may be: a ReLU stops such a gradient, and not such a derivative.
    """
    push = partial(_push(model.forward), model.params, model.batch_stats)
    found = {g: _in_batches(partial(push, trees.restrict(vector, labels, g)), x, batch_size) for g in groups}
    for along in found.values():  # any group may show it, since zero along a derivative that is not finite is not zero
        if not np.isfinite(along).all():
            raise no_derivative("the Jacobian-vector product", int(np.argmin(np.isfinite(along).all(1))))
    return found


@lru_cache(maxsize=8)  # tangents of one architecture share what is compiled
def _push(forward: Forward) -> Callable:
    """(params, batch_stats, u, x) -> J u."""

    @jax.jit
    def push(params: Tree, batch_stats: Tree, direction: Tree, x: Array) -> Array:
        return jax.jvp(lambda p: forward(p, batch_stats, x)[0], (params,), (direction,))[1]

    return push


def _in_batches(outputs: Callable[[Array], Array], x: Array, batch_size: int) -> Array:
    parts = equal_batches(x, equal_size(len(x), batch_size))
    with jax.default_matmul_precision("highest"):
        return jnp.concatenate([outputs(part)[:n] for part, n in parts])


def mixing(model: Model, kernel: Kernel, few: Kernel | None, labels: Tree) -> dict[str, Array]:
    """How each group's trace spreads over pairs of logits: A_g [c c], of trace 1.

    Measured where a kernel by logits is at hand: the mean of the diagonal blocks Θ_g[n,·,n,·]. For
    pseudo kernels it is taken from the head: I/C for the head itself, WᵀW/‖W‖² below it, which is
    right where the features' kernel is a multiple of the identity over features.
    """
    by_logits = kernel if few is None else few
    if by_logits.outputs == "full":
        sums = {g: jnp.einsum("nknl->kl", block) for g, block in by_logits.blocks.items()}
        identity = jnp.eye(model.num_classes, dtype=model.dtype) / model.num_classes
        return {g: jnp.where(jnp.trace(a) > 0, a / jnp.trace(a), identity) for g, a in sums.items()}
    return {g: _mixing_of_head(model, g, labels) for g in kernel.blocks}


def _mixing_of_head(model: Model, group: str, labels: Tree) -> Float[Array, "c c"]:
    kernel = trees.get(model.params, model.head)["kernel"]
    classes = kernel.shape[1]
    members = {trees.path_of(p) for p, g in jax.tree_util.tree_leaves_with_path(labels) if g == group}
    size = jnp.vdot(kernel, kernel)
    if all(path.startswith(model.head + "/") for path in members) or not size > 0:
        return jnp.eye(classes, dtype=kernel.dtype) / classes
    return kernel.T @ kernel / size


def to_trace(full: Tangent) -> Tangent:
    """The tangent with trace kernels [n m] in place of full ones: far smaller, and approximate."""

    def traced(kernel: Kernel) -> Kernel:
        return Kernel(kernel.traces(), "trace", kernel.engine)

    return full.replace(kernel_train=traced(full.kernel_train), kernel_test=traced(full.kernel_test))


def save(path: str | Path, tangent: Tangent) -> None:
    """Write the tangent whole, as safetensors."""
    leaves = {trees.path_of(p): np.asarray(v) for p, v in jax.tree_util.tree_leaves_with_path(tangent)}
    kernel = tangent.kernel_train
    meta = {"outputs": kernel.outputs, "engine": kernel.engine, "groups": json.dumps(tangent.groups)}
    meta["batch_norm"] = tangent.batch_norm
    meta["draws"] = json.dumps(tangent.draws and asdict(tangent.draws))
    with whole(Path(path)) as partial:
        save_file(leaves, partial, meta)


def kept(path: Path | None, make: Callable[[], Tangent]) -> Tangent:
    """The tangent in a file, or a new one that is kept there; without a file a new one."""
    if path is not None and path.exists():
        return load(path)
    found = make()
    if path is not None:
        save(path, found)
    return found


def load(path: str | Path) -> Tangent:
    """The tangent in a file."""
    try:
        with safe_open(path, "np") as file:
            meta = file.metadata()
            arrays = {key: jnp.asarray(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise LinftError(f"{path} is not a readable tangent file ({error}); delete it to compute it again") from None
    groups = json.loads(meta["groups"])

    def by_group(prefix: str) -> dict[str, Array]:
        return {group: arrays[f"{prefix}/{group}"] for group in groups}

    def kernel(name: str) -> Kernel:
        return Kernel(by_group(f"{name}/blocks"), meta["outputs"], meta["engine"])

    return Tangent(
        logits_train=arrays["logits_train"],
        logits_test=arrays["logits_test"],
        labels_train=arrays["labels_train"],
        labels_test=arrays["labels_test"],
        kernel_train=kernel("kernel_train"),
        kernel_test=kernel("kernel_test"),
        weights_train=by_group("weights_train"),
        weights_test=by_group("weights_test"),
        squared_norms=by_group("squared_norms"),
        mixing=by_group("mixing"),
        batch_norm=meta.get("batch_norm", "frozen"),  # files without it are older than training mode
        draws=Draws(**of_draws) if (of_draws := json.loads(meta.get("draws", "null"))) else None,
    )
