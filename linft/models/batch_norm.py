"""Whose statistics batch norm uses: the target's re-estimated, or those of parts of a batch.

In training mode a running average becomes  new = m·old + (1 − m)·batch,  affine in the old one; so two
evaluations tell the momentum m and the batch's own statistics, of any module.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linft.core import trees
from linft.core.base import Model
from linft.core.constants import constants_of, statistics_of
from linft.core.errors import LinftError
from linft.core.preprocessing import Images, Preprocessing
from linft.core.trees import Tree

TrainingMode = Callable[[Tree, Tree, Array, Array], tuple[Array, Tree]]


def reestimated(model: Model, images: Images, batch: int = 250) -> Model:
    """The model with the batch norm statistics of other images, such as the target's training images.

    Every norm's mean and variance over all images, by the law of total variance from those of batches
    b of n_b images:  μ = Σ (n_b/n) μ_b,  σ² = Σ (n_b/n) (σ_b² + (μ_b − μ)²).  Within a batch, lower
    norms use the batch's statistics, so that of one batch evaluation mode gives the logits of training
    mode; of several it is the precise batch norm of Wu and Johnson 2021 ("Rethinking 'Batch' in
    BatchNorm"). Dropout is off, as it will be when the statistics are used.

    Args:
      images: uint8, as they come; their labels are not needed.
      batch: images in one forward pass at most; the images are cut into equal parts.

    Raises:
      LinftError: a model without training mode or batch norm, or whose norm keeps other statistics
        than mean and var; a norm with a momentum of 1, which never sees a batch; no images.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(20, 10)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=2)
      >>> target = reestimated(model, task.x_train, batch=10)
      >>> float(abs(target.batch_stats["stem"]["norm"]["mean"] - model.batch_stats["stem"]["norm"]["mean"]).max()) > 0
      True
    """
    training_mode(model)
    if not model.has_statistics:
        raise LinftError(f"{model.name} has no batch norm, so no statistics to re-estimate")
    if len(images) == 0 or batch < 1:
        raise LinftError(f"{len(images)} images in batches of {batch}: both must be 1 or more")
    resized = model.preprocessing.resize(images)
    cuts = np.linspace(0, len(images), math.ceil(len(images) / batch) + 1).round().astype(int)
    parts = []
    for i, j in itertools.pairwise(cuts):
        parts.append(momentum_and_statistics(model, resized[i:j])[1])
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves).astype(np.float64), *parts)
    pooled = _pooled(stacked, np.diff(cuts) / len(images), model.name)
    new = jax.tree.map(lambda leaf: jnp.asarray(leaf.astype(model.dtype)), pooled)
    return model.replace(batch_stats={**new, **constants_of(model.batch_stats)}, class_means=None)


def over_parts(model: Model, size: int | None) -> Model:
    """The model whose training mode normalises every `size` images of a batch by their own statistics.

    As when a batch is split over devices: Li and others 2020 (section 3.1) use parts of 32 in batches of
    256. Parts are consecutive; the running averages get the mean over parts. One part is the plain
    training mode, but for the random numbers of dropout; so is size None, with those too.

    Raises:
      LinftError: a model without training mode; a size below 1; when it runs, a batch of another size
        than a multiple.

    Example:
      >>> import jax, jax.numpy as jnp, linft
      >>> model = over_parts(linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=2), 2)
      >>> logits, _ = model.forward_train(model.params, model.batch_stats, jnp.ones((4, 32, 32, 3)), jax.random.key(1))
      >>> logits.shape
      (4, 10)
    """
    train = training_mode(model)
    if size is None:
        return model
    if size < 1:
        raise LinftError(f"batch norm over parts of {size} images; it must be 1 or more")
    return model.replace(forward_train=_over_parts(train, size))


@lru_cache(maxsize=8)  # one function, so that what is compiled for one model of an architecture serves the others
def _over_parts(train: TrainingMode, size: int) -> TrainingMode:
    def forward_train(params: Tree, batch_stats: Tree, x: Array, key: Array) -> tuple[Array, Tree]:
        parts, rest = divmod(len(x), size)
        if rest or not parts:
            raise LinftError(f"a batch of {len(x)} images is not a multiple of batch norm's {size}; change one of them")
        each = jax.vmap(train, in_axes=(None, None, 0, 0))
        logits, changed = each(params, batch_stats, x.reshape(parts, size, *x.shape[1:]), jax.random.split(key, parts))
        mean = jax.tree.map(lambda leaf: leaf.mean(0), statistics_of(changed))
        return logits.reshape(len(x), -1), {**mean, **constants_of(batch_stats)}

    return forward_train


def momentum_and_statistics(model: Model, images: Images) -> tuple[Tree, Tree]:
    """Of every norm the momentum, and the mean and variance that it takes of these images in one batch.

    Raises:
      LinftError: a norm with a momentum of 1, which never sees a batch.
    """
    resized = model.preprocessing.resize(images)
    found = _of_batch(training_mode(model), model.preprocessing, model.params, model.batch_stats, resized)
    momentum, statistics = jax.device_get(found)
    if max(float(m.max()) for m in jax.tree.leaves(momentum)) > 1 - 1e-5:
        raise LinftError(f"a norm of {model.name} has momentum 1, so that it takes no statistics of a batch")
    return momentum, statistics


def training_mode(model: Model) -> TrainingMode:
    """`forward_train`, where there is one."""
    if model.forward_train is None:
        raise LinftError(
            f"{model.name} has no training mode, which batch statistics come from (a linearized model never has one; "
            'from_flax(…, training={…}) says what a module is told in its own); use batch_norm="frozen"'
        )
    return model.forward_train


@partial(jax.jit, static_argnums=(0, 1))
def _of_batch(train: TrainingMode, preprocessing: Preprocessing, params: Tree, batch_stats: Tree, images: Array) -> Any:
    """Momentum and the batch's own statistics, leaf by leaf."""
    x = preprocessing.normalize(images, trees.precision(params))

    def updated(old: Tree) -> Tree:
        with nn.intercept_methods(without_dropout):
            return statistics_of(train(params, {**old, **constants_of(batch_stats)}, x, jax.random.key(0))[1])

    first = updated(jax.tree.map(jnp.zeros_like, statistics_of(batch_stats)))  # (1 − m)·batch
    # Far from zero, so that the difference has the momentum in all digits, however large the statistics.
    far = jax.tree.map(lambda leaf: jnp.full_like(leaf, 1 + jnp.abs(leaf).max()), first)
    momentum = jax.tree.map(lambda new, old, at: (new - old) / at, updated(far), first, far)
    return momentum, jax.tree.map(lambda leaf, m: leaf / (1 - m), first, momentum)


def without_dropout(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
    return args[0] if isinstance(context.module, nn.Dropout) else call(*args, **kwargs)


def _pooled(parts: Tree, shares: Float[np.ndarray, "parts"], name: str) -> Tree:
    """Mean and variance of all images from those of batches, which lie along the first axis."""
    own = [key for key, part in parts.items() if not isinstance(part, Mapping)]
    if not own:
        return {key: _pooled(part, shares, name) for key, part in parts.items()}
    if set(parts) != {"mean", "var"}:
        raise LinftError(f"a layer of {name} keeps {', '.join(own)}; only mean and var can be pooled")
    mean = np.tensordot(shares, parts["mean"], 1)
    return {"mean": mean, "var": np.tensordot(shares, parts["var"] + (parts["mean"] - mean) ** 2, 1)}
