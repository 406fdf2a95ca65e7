"""`empirical_ntk`: the kernel of a model on images, by either engine, with one block a layer group."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from linft.core import trees
from linft.core.base import Kernel, Model, Outputs
from linft.core.errors import LinftError
from linft.core.trees import Groups
from linft.models import lora
from linft.ntk.engine import Engine, How, Precision
from linft.ntk.tiled import tiles
from linft.ntk.tiled.tiles import Work, assemble
from linft.runtime.progress import Count

CHOICES = {
    "outputs": ("full", "trace", "pseudo"),
    "engine": ("auto", "layerwise", "neural-tangents"),
    "precision": ("highest", "tensorfloat32", "bfloat16"),
    "sums": (None, "float32", "float64"),
}


def empirical_ntk(
    model: Model,
    x1: Float[Array, "n h w ch"],
    x2: Float[Array, "m h w ch"] | None = None,
    *,
    outputs: Outputs = "full",
    groups: Groups | Sequence[str] | None = None,
    engine: Engine = "auto",
    batch_size: int = 16,
    draws: int = 1,
    seed: int = 0,
    precision: Precision = "highest",
    sums: Literal["float32", "float64"] | None = None,
    memory: int | None = None,
    tile: int | None = None,
    mesh: Mesh | None = None,
    progress: Count | None = None,
) -> Kernel:
    """The empirical neural tangent kernel at the model's weights, one block for each group.

        Θ_g[n, c, m, c'] = ⟨∂f_c(x_n)/∂w_g, ∂f_c'(x_m)/∂w_g⟩

    Jacot and others 2018; Deshpande and others 2021, section 3.1. Batch size, tile and memory change
    speed, and values by no more than rounding.

    Args:
      model: its batch norm is frozen; scale and bias are weights like any other.
      x1, x2: preprocessed images, taken in the type of the weights; without x2, the symmetric kernel of x1, each
        pair computed once.
      outputs: full, [n c m c]; trace, [n m], Σ_c of the diagonal; pseudo, [n m], an unbiased estimate
        of trace/C from `draws` random sign vectors over the logits, one backward pass each.
      groups: names among the model's stages or layer groups, or a partition of its parameters as
        `optim.kernel_groups(model.layer_groups, recipe)`; all stages by default. The backward pass goes
        no deeper than they do.
      engine: layerwise, which is ours, and auto; or that of the package neural-tangents.
      batch_size: most images whose layer inputs and output gradients are in memory at once.
      draws, seed: of the random signs.
      precision: of matrix products where the device offers less than float32; at bfloat16 Jacobians are
        held in it too. The difference from the highest, on a few images, is logged.
      sums: the type in which products are summed over parameters and returned; the images' by default.
      memory: bytes that this process may use on the device, or on the host where that is the CPU; 80 % of
        what is free by default. Where the Jacobians (n · C · parameters numbers) do not fit, layers are
        streamed.
      tile: images in a block of which products are taken; as many as serve speed by default.
      mesh: devices that share the work, from `parallel.mesh`; one device by default.

    Raises:
      LinftError: too little memory, an unknown group, values that are not finite, a failed self-check,
        or outputs of an image that depend on the others of its batch.

    Example:
      >>> import jax, jax.numpy as jnp, linft
      >>> model = linft.models.create("cifar_resnet8", 3, jax.random.key(0), width=4)
      >>> kernel = empirical_ntk(model, jnp.ones((2, 32, 32, 3)))
      >>> kernel.total().shape
      (2, 3, 2, 3)
    """
    how = how_of(
        outputs=outputs, engine=engine, batch_size=batch_size, draws=draws, seed=seed,
        precision=precision, sums=sums, memory=memory, tile=tile, mesh=mesh,
    )  # fmt: skip
    if x2 is None:
        return _kernel(works(model, x1, None, groups, how, progress, [(len(x1), len(x1))])[0])
    rectangle = works(model, x2, x1, groups, how, progress, [(len(x1), len(x2))])[1]
    assert rectangle is not None
    return _kernel(rectangle)


def train_test_ntk(
    model: Model,
    x_train: Float[Array, "n h w ch"],
    x_test: Float[Array, "m h w ch"],
    *,
    groups: Groups | Sequence[str] | None = None,
    progress: Count | None = None,
    **how: Any,
) -> tuple[Kernel, Kernel]:
    """The train × train and the test × train kernels, the Jacobian of every training image computed once.

    The other arguments (`How`) and errors as in `empirical_ntk`.
    """
    n, m = len(x_train), len(x_test)
    train, test = works(model, x_train, x_test, groups, how_of(**how), progress, [(n, n), (m, n)])
    assert test is not None
    return _kernel(train), _kernel(test)


def works(
    model: Model,
    x_train: Float[Array, "n h w ch"],
    x_test: Float[Array, "m h w ch"] | None,
    groups: Groups | Sequence[str] | None,
    how: How,
    progress: Count | None = None,
    held: Sequence[tuple[int, int]] = (),
) -> tuple[Work, Work | None]:
    """The train × train and the test × train kernels as tiles to be computed, arguments checked.

    Args:
      held: images on either side of the kernels that will be held in memory whole, beside their computation.
    """
    x_train = checked(model, x_train)
    x_test = None if x_test is None else checked(model, x_test)
    labels = labels_of(model, groups)
    nothing = lora.still(model.params)
    labels = {path: group for path, group in labels.items() if path not in nothing}
    of_pair = model.num_classes**2 if how.outputs == "full" else 1
    reserve = len({*labels.values()}) * of_pair * np.dtype(how.sums or x_train.dtype).itemsize
    return tiles.cut(model, x_train, x_test, labels, how, progress, reserve * sum(n * m for n, m in held))


def how_of(**options: Any) -> How:
    """How a kernel is computed, from fields of `How`.

    Raises:
      LinftError: a choice that there is not, or a size below 1.
    """
    for name, choices in CHOICES.items():
        if options.get(name, choices[0]) not in choices:
            raise LinftError(f"{name} is {options[name]!r}; choose among {', '.join(map(str, choices))}")
    for name in ("batch_size", "draws", "tile"):
        if (options.get(name) or 1) < 1 or options.get(name) == 0:
            raise LinftError(f"{name} is {options[name]}; it must be 1 or more")
    return How(**options)


def _kernel(work: Work) -> Kernel:
    blocks = {group: jnp.asarray(block) for group, block in assemble(work).items()}
    return Kernel(blocks, work.outputs, work.engine)


def labels_of(model: Model, groups: Groups | Sequence[str] | None) -> dict[str, str]:
    """The group of every parameter path that is asked for."""
    partition = groups if isinstance(groups, dict) else dict(model.stages)
    wanted = tuple(partition) if groups is None or isinstance(groups, dict) else tuple(groups)
    if not set(wanted) <= set(partition) and set(wanted) <= set(model.layer_groups):
        partition = dict(model.layer_groups)
    unknown = [group for group in wanted if group not in partition]
    if unknown or not wanted:
        names = ", ".join(unknown) or "(none given)"
        raise LinftError(f"no layer group {names}; this model has {', '.join(partition)}")
    tree = trees.labels(model.params, partition)
    labels = {trees.path_of(p): group for p, group in jax.tree_util.tree_leaves_with_path(tree) if group in wanted}
    return {path: group for name in wanted for path, group in labels.items() if group == name}  # network order


def checked(model: Model, x: Array) -> Array:
    """Images in the type of the weights; what is no batch of images, values or weights not finite are refused."""
    if x.ndim != 4 or len(x) == 0:
        raise LinftError(f"the images have shape {x.shape}; give preprocessed images [n h w c], n ≥ 1")
    if not bool(jnp.isfinite(x).all()):
        bad = int(jnp.argmax(~jnp.isfinite(x).all((1, 2, 3))))
        raise LinftError(f"image {bad} has values that are not finite")
    if not bool(trees.finite(model.params)):
        raise LinftError(f"the weights of {model.name} are not all finite")
    return jnp.asarray(x, model.dtype)
