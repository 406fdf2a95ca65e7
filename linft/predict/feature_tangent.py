"""The FeatureTangent of a model on a task: the kernel of the features below a head that stays exact.

The features are the outputs of the same network under a head U, so their kernel is one of logits.
"""

import logging
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from linft.core import trees
from linft.core.base import BatchNorm, Kernel, Model, Tangent
from linft.core.draws import Draws
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.core.trees import Groups, Tree
from linft.ntk.empirical import Engine, empirical_ntk, train_test_ntk
from linft.ntk.tiled import memory
from linft.predict.tangent import in_mode, outputs_on, pushed
from linft.runtime.progress import Count

log = logging.getLogger("linft")

HEAD = "(head)"
"""The group that U is in, and no recipe names."""
PROBED_IMAGES = 8
"""On which the error of random probes is measured."""

FeatureOutputs = Literal["full", "trace", "low-rank"]


@trees.pytree
@dataclass(frozen=True)
class FeatureTangent:
    """All that prediction needs of a head and of the features to first order: arrays only.

    φ = φ0 + Σ_g [Θφ_g a_g + (γ_g − 1) Jφ_g w0_g] Uᵀ and f = φ W + b, with orthonormal directions U along
    which the features move: all of them, or those of a low rank.
    """

    projected: Tangent
    """Of a network whose logits are φ U: its kernel is that of the features."""
    directions: Float[Array, "d r"]
    """U."""
    features_train: Float[Array, "n d"]
    """φ0 on the training images."""
    features_test: Float[Array, "m d"]
    head: dict[str, Array]
    """kernel W [d c] and, where there is one, bias b [c]."""
    standard_error: float = field(metadata={"static": True})
    """Of the kernel, relative, from the number of random probes; 0 where there are none."""
    head_groups: tuple[tuple[str, str], ...] = field(metadata={"static": True})
    """The group of each array of the head."""

    def with_head(self, head: dict[str, Array]) -> Self:
        """The same features under another head, at no cost: their kernel knows of none.

        Raises:
          LinftError: their few directions are chosen for another one.
        """
        kernel = jnp.asarray(head["kernel"], self.directions.dtype)
        followed = self.directions @ (self.directions.T @ kernel)
        if not np.allclose(followed, kernel, rtol=0, atol=1e-5 * float(jnp.abs(kernel).max())):
            raise LinftError('few directions of the features are those of one head; take outputs="full" or "trace"')
        return replace(self, head=dict(head))

    @property
    def draws(self) -> Draws | None:
        return self.projected.draws

    @property
    def num_images(self) -> int:
        return self.projected.num_images

    def rows(self, recipe: Recipe) -> Int[np.ndarray, "steps batch"]:
        """As of a Tangent."""
        return self.projected.rows(recipe)

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.projected.groups, *(group for _, group in self.head_groups)]))


def feature_tangent(
    model: Model,
    task: Task,
    *,
    groups: Groups | None = None,
    outputs: FeatureOutputs = "full",
    rank: int = 8,
    draws: int = 8,
    seed: int = 0,
    batch_norm: BatchNorm = "frozen",
    engine: Engine = "auto",
    batch_size: int = 32,
    progress: Count | None = None,
) -> FeatureTangent:
    """Features, their kernels, Jφ_g w0_g and the head of a model on a task's training and test images.

    Args:
      groups: a partition of the parameters; stages by default. Recipes that tell the layer groups of a
        stage apart, or decay kernels only, need `optim.kernel_groups(model.layer_groups, recipe)`.
      outputs: full, Θφ [n d m d]; trace, κ ⊗ I with κ [n m] the trace of Θφ over d, by random probes;
        low-rank, UᵀΘφU [n r m r] along the head's columns and the leading directions of the features.
      rank: leading directions of the features in a low-rank kernel, beside the head's.
      draws, seed: random sign vectors over the features whose gradients' products estimate κ.
      batch_norm: as in `tangent`.
      engine, batch_size, progress: as in `empirical_ntk`.

    Raises:
      LinftError: the kernels do not fit into memory, with their size; nothing but the head has parameters.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(10, 10)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=4)
      >>> found = feature_tangent(model, task, outputs="trace")
      >>> found.features_train.shape, found.projected.kernel_test.total().shape, 0 < found.standard_error < 1
      ((10, 16), (10, 10), True)
    """
    model.check_classes(task)
    model = in_mode(model, task, batch_norm, progress)
    head = trees.get(model.params, model.head)
    dtype = head["kernel"].dtype
    x_train, x_test = model.preprocess(task.x_train), model.preprocess(task.x_test)
    directions = jnp.eye(len(head["kernel"]), dtype=dtype)
    whole = under(model, directions)
    features_train, features_test = (outputs_on(whole, x) for x in (x_train, x_test))
    if outputs == "low-rank":
        found = leading(np.asarray(features_train), np.asarray(head["kernel"]), rank)
        directions = jnp.asarray(found, dtype)
    view, names, head_groups = viewed(model, groups or model.stages, directions)
    if outputs != "trace":
        _fits(len(x_train), len(x_test), directions.shape[1], len(names), dtype)
    kernels = train_test_ntk(
        view,
        x_train,
        x_test,
        groups=names,
        outputs="pseudo" if outputs == "trace" else "full",
        engine=engine,
        batch_size=batch_size,
        draws=draws,
        seed=seed,
        progress=progress,
    )
    error = 0.0
    if outputs == "trace":
        few = empirical_ntk(view, x_train[:PROBED_IMAGES], groups=names, engine=engine, batch_size=batch_size)
        error = probing_error(np.asarray(few.total()), draws)
    return FeatureTangent(
        projected=_projected(
            view, task, (x_train, x_test), (features_train, features_test), names, kernels, batch_norm
        ),
        directions=directions,
        features_train=features_train,
        features_test=features_test,
        head=dict(head),
        standard_error=error,
        head_groups=head_groups,
    )


def leading(features: Float[np.ndarray, "n d"], head: Float[np.ndarray, "d c"], rank: int) -> Float[np.ndarray, "d r"]:
    """An orthonormal basis of the head's columns and of the `rank` leading right singular vectors of the features.

    A head's gradient is φᵀ ∂L/∂f, so that its columns stay among the features and where they began.
    """
    if rank < 0:
        raise LinftError(f"rank is {rank}; it must be 0 or more")
    of_features = np.linalg.svd(features.astype(np.float64), full_matrices=False)[2][:rank].T
    scale = np.linalg.norm(head, axis=0).max() or 1.0
    left, values, _ = np.linalg.svd(np.concatenate([head / scale, of_features], 1), full_matrices=False)
    return left[:, values > 1e-6]


def probing_error(theta: Float[np.ndarray, "n d n d"], draws: int) -> float:
    """Relative standard error of κ(x, x') = tr Θ(x, x') from random signs, over all pairs of some images.

    Of one draw εᵀMε the variance is Σ_{k<l} (M_kl + M_lk)², M = Θ(x, x').
    """
    kernel = theta.astype(np.float64).swapaxes(1, 2)  # [n n d d]
    both = kernel + kernel.swapaxes(2, 3)
    trace = np.trace(kernel, axis1=2, axis2=3)
    variance = ((both**2).sum((2, 3)) - (np.diagonal(both, axis1=2, axis2=3) ** 2).sum(-1)) / 2 / draws
    return float(np.sqrt(variance.sum() / (trace**2).sum())) if trace.any() else 0.0


def under(model: Model, directions: Float[Array, "d r"]) -> Model:
    """The model with logits φ U."""
    return model.replace(params=trees.put(model.params, model.head, {"kernel": directions}))


def viewed(
    model: Model, groups: Groups, directions: Float[Array, "d r"]
) -> tuple[Model, list[str], tuple[tuple[str, str], ...]]:
    """The model with logits φ U, the groups of what is below the head, and those of the head's arrays."""
    labels = {trees.path_of(p): g for p, g in jax.tree_util.tree_leaves_with_path(trees.labels(model.params, groups))}
    of_head = {path: g for path, g in labels.items() if path.startswith(model.head + "/")}
    below = {path: g for path, g in labels.items() if path not in of_head}
    if not below:
        raise LinftError("no parameter lies below the head, so its features do not move; use predict.dual")
    members = {g: tuple(p for p, of in below.items() if trees.layer_group(of) == trees.layer_group(g)) for g in groups}
    view = under(model, directions).replace(layer_groups={**members, HEAD: (model.head,)})
    names = [g for g in groups if g in below.values()]
    return view, names, tuple((path.rpartition("/")[2], g) for path, g in of_head.items())


def _fits(n: int, m: int, r: int, groups: int, dtype: Any) -> None:
    """Say how large the kernels are, or refuse them."""
    item = groups * dtype.itemsize
    sizes = {"train × train": (n * r) ** 2 * item, "test × train": m * r * n * r * item}
    log.info(
        "the features' kernels are [%d × %d] and [%d × %d] for %d layer groups: %.2f GiB",
        n * r, n * r, m * r, n * r, groups, sum(sizes.values()) / memory.GIB,
    )  # fmt: skip
    advice = 'use fewer images, fewer groups, outputs="low-rank" or outputs="trace"'
    memory.check({**sizes, "their sum": sum(sizes.values()) // groups}, memory.budget(None), advice)


def _projected(
    view: Model,
    task: Task,
    images: tuple[Array, Array],
    features: tuple[Array, Array],
    names: list[str],
    kernels: tuple[Kernel, Kernel],
    batch_norm: BatchNorm,
) -> Tangent:
    """The tangent of the network whose logits are φ U."""
    labels: Tree = trees.labels(view.params, view.layer_groups)
    weights_train, weights_test = (pushed(view, x, view.params, labels, names) for x in images)
    squares = trees.dots_by_group(view.params, view.params, labels, jax.tree.leaves(labels))
    directions = trees.get(view.params, view.head)["kernel"]
    alike = jnp.eye(view.num_classes, dtype=directions.dtype) / view.num_classes
    return Tangent(
        logits_train=features[0] @ directions,
        logits_test=features[1] @ directions,
        labels_train=jnp.asarray(task.y_train),
        labels_test=jnp.asarray(task.y_test),
        kernel_train=kernels[0],
        kernel_test=kernels[1],
        weights_train=weights_train,
        weights_test=weights_test,
        squared_norms={g: squares[g] for g in names},
        mixing=dict.fromkeys(names, alike),
        batch_norm=batch_norm,
        draws=task.draws,
    )
