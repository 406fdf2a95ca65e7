"""`empirical_ntk`: the kernel of a model on images, by either engine, with one block a layer group."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linft import trees
from linft.base import Kernel, Model, Outputs
from linft.errors import LinftError
from linft.ntk import assemble, batching, gram, layerwise, memory, package
from linft.ntk.check import check
from linft.trees import Groups

log = logging.getLogger("linft")

Engine = Literal["auto", "layerwise", "neural-tangents"]
Progress = Callable[[int, int], None]
"""Called with (examples done, examples in all)."""


def empirical_ntk(
    model: Model,
    x1: Float[Array, "n h w ch"],
    x2: Float[Array, "m h w ch"] | None = None,
    *,
    outputs: Outputs = "full",
    engine: Engine = "auto",
    groups: Groups | Sequence[str] | None = None,
    batch_size: int = 32,
    draws: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Kernel:
    """The empirical neural tangent kernel at the model's weights, one block for each layer group.

        Θ_g[n, c, m, c'] = ⟨∂f_c(x_n)/∂w_g, ∂f_c'(x_m)/∂w_g⟩

    Jacot and others 2018; Deshpande and others 2021, section 3.1. Matrix products run at the
    highest precision. Batch size changes memory and speed, not values.

    Args:
      model: its batch norm is frozen; scale and bias are weights like any other.
      x1, x2: preprocessed images; without x2, the symmetric kernel of x1, each pair computed once.
      outputs: full, [n c m c]; trace, [n m], Σ_c of the diagonal; pseudo, [n m], an unbiased estimate
        of trace/C from `draws` random sign vectors over the logits, one backward pass each.
      engine: layerwise (ours), neural-tangents, or auto: layerwise where it covers every layer.
      groups: names among the model's layer groups, or a partition of its parameters as
        `trees.split_vectors(model.layer_groups)`; all layer groups by default.
      batch_size: most images whose layer inputs and output gradients are in memory at once. The
        Jacobians of one side (n · C · parameters floats) are held until the kernel is done.
      draws, seed: of the random signs.

    Raises:
      LinftError: too little memory, an unknown group, values that are not finite, a failed self-check,
        or parameters that the layerwise engine does not cover.

    Example:
      >>> import jax, jax.numpy as jnp, linft
      >>> model = linft.models.create("cifar_resnet8", 3, jax.random.key(0), width=4)
      >>> kernel = empirical_ntk(model, jnp.ones((2, 32, 32, 3)))
      >>> kernel.total().shape
      (2, 3, 2, 3)
    """
    kernels = _kernels(
        model,
        x1 if x2 is None else x2,
        None if x2 is None else x1,
        x2 is None,
        outputs,
        engine,
        groups,
        batch_size,
        draws,
        seed,
        progress,
    )
    return kernels[0] if x2 is None else kernels[1]


def train_test_ntk(
    model: Model,
    x_train: Float[Array, "n h w ch"],
    x_test: Float[Array, "m h w ch"],
    *,
    outputs: Outputs = "full",
    engine: Engine = "auto",
    groups: Groups | Sequence[str] | None = None,
    batch_size: int = 32,
    draws: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Kernel, Kernel]:
    """The train × train and the test × train kernels, the Jacobian of every image computed once.

    Arguments and errors as in `empirical_ntk`.
    """
    return _kernels(model, x_train, x_test, True, outputs, engine, groups, batch_size, draws, seed, progress)


def _kernels(
    model: Model,
    held: Array,
    other: Array | None,
    symmetric: bool,
    outputs: Outputs,
    engine: Engine,
    groups: Groups | Sequence[str] | None,
    batch_size: int,
    draws: int,
    seed: int,
    progress: Progress | None,
) -> tuple[Any, Any]:
    """(held × held, other × held), each None where it was not asked for."""
    if batch_size < 1 or draws < 1:
        raise LinftError(f"batch_size is {batch_size} and draws {draws}; both must be 1 or more")
    for x in (held,) if other is None else (held, other):
        _check_images(model, x)
    labels = _labels(model, groups)
    cotangents = _cotangents(outputs, model.num_classes, draws, seed, held.dtype)
    chosen, layers = _choose(engine, model, held)
    size = batching.size_for(len(held), batch_size)
    total = len(held) + (0 if other is None else len(other))
    tell = progress or (lambda done, total: None)
    with jax.default_matmul_precision("highest"):
        _check_memory(model, layers, labels, len(cotangents), held, other, outputs, size, symmetric)
        hold, between = _functions(model, layers, labels, cotangents, outputs)
        columns = []
        for batch, real in batching.split(held, size):
            columns.append(hold(batch, real))
            tell(min(len(columns) * size, len(held)), total)
        square = rectangle = None
        if symmetric:
            square = Kernel(assemble.symmetric(columns, between), outputs, chosen)
            _verify(model, square, labels, cotangents, held, None, size)
        if other is not None:
            grid = []
            for batch, real in batching.split(other, size):
                row = hold(batch, real)
                grid.append([between(row, column) for column in columns])
                tell(len(held) + min(len(grid) * size, len(other)), total)
            rectangle = Kernel(assemble.join(grid), outputs, chosen)
            _verify(model, rectangle, labels, cotangents, other, held, size)
    return square, rectangle


def _functions(
    model: Model, layers: Any, labels: dict[str, str], cotangents: Float[Array, "k c"], outputs: Outputs
) -> tuple[Callable[[Array, int], Any], assemble.Between]:
    """What an engine holds of a batch of which so many images are real, and its blocks between two batches."""
    if layers is None:
        between = package.block(model, labels, cotangents, outputs)
        return (lambda batch, real: batch[:real]), between
    rows = layerwise.rows(model, layers, labels, cotangents)
    return (
        lambda batch, real: layerwise.trim(rows(batch), real),
        lambda a, b: gram.block(a, b, labels, model.head, cotangents, outputs),
    )


def _verify(
    model: Model,
    kernel: Kernel,
    labels: dict[str, str],
    cotangents: Float[Array, "k c"],
    x1: Array,
    x2: Array | None,
    size: int,
) -> None:
    """Refuse values that are not finite, and hold the layerwise engine against backward passes."""
    for group, block in kernel.blocks.items():
        if not bool(jnp.isfinite(block).all()):
            bad = int(jnp.argmax(~jnp.isfinite(block.reshape(len(block), -1)).all(1)))
            raise LinftError(f"the kernel of {group} is not finite at image {bad}")
    if kernel.engine == "layerwise":
        check(model, kernel, labels, cotangents, x1, x2, size)


def _labels(model: Model, groups: Groups | Sequence[str] | None) -> dict[str, str]:
    """The group of every parameter path that is asked for."""
    partition = groups if isinstance(groups, dict) else dict(model.layer_groups)
    wanted = tuple(partition) if groups is None or isinstance(groups, dict) else tuple(groups)
    unknown = [group for group in wanted if group not in partition]
    if unknown or not wanted:
        names = ", ".join(unknown) or "(none given)"
        raise LinftError(f"no layer group {names}; this model has {', '.join(partition)}")
    tree = trees.labels(model.params, partition)
    labels = {trees.path_of(p): group for p, group in jax.tree_util.tree_leaves_with_path(tree) if group in wanted}
    return {path: group for name in wanted for path, group in labels.items() if group == name}  # network order


def _cotangents(outputs: Outputs, classes: int, draws: int, seed: int, dtype: Any) -> Float[Array, "k c"]:
    if outputs in ("full", "trace"):
        return jnp.eye(classes, dtype=dtype)
    if outputs == "pseudo":
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, classes))
        return jnp.asarray(signs / math.sqrt(classes), dtype)
    raise LinftError(f"outputs is {outputs!r}; choose among full, trace, pseudo")


def _choose(engine: Engine, model: Model, x: Array) -> tuple[Literal["layerwise", "neural-tangents"], Any]:
    """The engine's name, and the layerwise plan where it is layerwise."""
    if engine not in ("auto", "layerwise", "neural-tangents"):
        raise LinftError(f"engine is {engine!r}; choose among auto, layerwise, neural-tangents")
    if engine == "neural-tangents":
        return engine, None
    try:
        layers = layerwise.plan(model, x)
    except layerwise.Uncovered as reason:
        if engine == "layerwise":
            raise LinftError(f'{reason}; pass engine="neural-tangents" or "auto"') from None
        log.info("kernel engine: neural-tangents, because %s", reason)
        return "neural-tangents", None
    log.info("kernel engine: layerwise")
    return "layerwise", layers


def _check_images(model: Model, x: Array) -> None:
    if x.ndim != 4 or len(x) == 0:
        raise LinftError(f"the images have shape {x.shape}; give preprocessed images [n h w c], n ≥ 1")
    if not bool(jnp.isfinite(x).all()):
        bad = int(jnp.argmax(~jnp.isfinite(x).all((1, 2, 3))))
        raise LinftError(f"image {bad} has values that are not finite")
    if not bool(trees.finite(model.params)):
        raise LinftError(f"the weights of {model.name} are not all finite")


def _check_memory(
    model: Model,
    layers: Any,
    labels: dict[str, str],
    k: int,
    held: Array,
    other: Array | None,
    outputs: Outputs,
    size: int,
    symmetric: bool,
) -> None:
    item = held.dtype.itemsize
    sides = k * k if outputs == "full" else 1
    pairs = (len(held) ** 2 if symmetric else 0) + (0 if other is None else len(other) * len(held))
    parameters = sum(
        leaf.size
        for p, leaf in jax.tree_util.tree_leaves_with_path(model.params)
        if trees.path_of(p) in labels and not trees.path_of(p).startswith(model.head + "/")
    )
    blocks = 2 * item * pairs * sides * len(set(labels.values()))  # twice while they are put together
    if layers is None:
        needs = {"Jacobians": 2 * item * size * k * parameters, "blocks": blocks}
    else:
        activations = sum(math.prod(layer.output.shape) for layer in layers)
        rows = len(held) + (0 if other is None else size)
        needs = {
            "Jacobians": item * rows * k * parameters,
            "blocks": blocks,
            "one batch": 3 * item * size * (k + 1) * activations,
        }
    memory.check(needs, 'use fewer images, fewer groups, a smaller batch_size or outputs="trace"')
