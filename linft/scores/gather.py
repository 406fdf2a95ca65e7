"""One pass over a sample of the target's images, for all that scores take of a model."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from linft.core import trees
from linft.core.base import NEW_HEAD, Kernel, Model, Tangent
from linft.core.errors import LinftError
from linft.core.forward_pass import equal_batches, equal_size, forward_pass
from linft.core.task import Task
from linft.models.lora import without_adapters
from linft.ntk.empirical import empirical_ntk
from linft.ntk.layerwise.last_convolution import last_convolution, last_convolution_gradients
from linft.ntk.projected import projected_ntk
from linft.scores import compiling
from linft.scores.last_layer import last_layer
from linft.scores.score_inputs import LAYER, ScoreInputs
from linft.scores.small_network import SmallNetwork


@dataclass(frozen=True)
class ScoreGradients:
    """Of which layers the kernel is, and how it is computed; by default exact, of the last convolution."""

    groups: tuple[str, ...] = ()
    """Layer groups in place of the last convolution's kernel, by name; `all` is every one."""
    outputs: Literal["trace", "pseudo"] = "trace"
    """Summed over the logits, or along random signs over them."""
    draws: int = 8
    """Random sign vectors of pseudo."""
    dimensions: int | None = None
    """Project larger parameters' gradients at random to so many numbers."""


LAST_CONVOLUTION = ScoreGradients()
LAST = "last convolution"


def gather(
    model: Model,
    task: Task,
    needs: Collection[str] = ("features", "probabilities", "kernel"),
    *,
    small: SmallNetwork | None = None,
    gradients: ScoreGradients = LAST_CONVOLUTION,
    seed: int = 0,
    batch_size: int = 64,
) -> ScoreInputs:
    """One pass over a task's training images, for all that scores need of a model.

    Features, logits and the gradients of the last convolution come from the same pass; what is compiled
    for it serves every model of one architecture.

    Args:
      model: with its source's head, where LEEP and NCE are to be defined; with adapters the network that they make.
      task: its training images are the sample, at most some of each class; see `Task.max_per_class`.
      needs: names of what is wanted, of `ScoreInputs`; `table.needs` tells them for scores.
      small: the network that was trained on the same images, for RSA and the probe gap.
      gradients: which layers' kernel.
      seed: of the fresh head, of random signs and projections, and of what is random in scores.
      batch_size: most images that are in the device's memory at once.

    Raises:
      LinftError: weights or features that are not finite; a layer group that there is not.

    Example:
      >>> import linft
      >>> task = linft.load_task("digits").max_per_class(2)
      >>> inputs = gather(linft.load_model("resnet14-mnist"), task)
      >>> inputs.features.shape, inputs.kernel.shape, inputs.probabilities.shape
      ((20, 64), (20, 20), (20, 10))
    """
    model = without_adapters(model)
    with_gradients, seconds = "kernel" in needs and gradients == LAST_CONVOLUTION, {}
    kernel = error = tangent = None
    with compiling.apart(seconds, "pass"):
        features, jacobian = _passed(model, task, with_gradients, batch_size)
    if "kernel" in needs:
        with compiling.apart(seconds, "kernel"):
            if jacobian is None:
                kernel, error = _kernel(model, task, gradients, seed, batch_size)
            else:
                with threadpool_limits(1):  # threads that wait for a busy core would take longer than the product
                    kernel = jacobian @ jacobian.T
    layer = _last_layer(model, task, seed, batch_size) if set(LAYER) & set(needs) else (None, None)
    if "tangent" in needs:
        with compiling.apart(seconds, "tangent"):
            tangent = _fresh_tangent(model, task, features, gradients, seed, batch_size)
    no_head, no_means = _no_source_head(model), _no_class_means(model)
    head = trees.get(model.params, model.head)
    probabilities = None
    if no_head is None:
        logits = features @ np.asarray(head["kernel"]) + np.asarray(head.get("bias", 0.0))
        probabilities = softmax(logits.astype(np.float64), axis=1)
    missing = {
        **dict.fromkeys(("probabilities", "source_labels"), no_head),
        **dict.fromkeys(("source", "source_means", "source_counts"), no_means),
        "scratch_accuracy": "a class has too few images to hold some out from the small network",
    }
    return ScoreInputs(
        model.name,
        np.asarray(task.y_train),
        features,
        probabilities,
        kernel,
        error,
        *layer,
        source=model.class_means if no_means is None else None,
        reference=None if small is None else small.features,
        scratch_accuracy=None if small is None else small.accuracy,
        tangent=tangent,
        seed=seed,
        missing={name: reason for name, reason in missing.items() if reason},
        seconds=seconds,
    )


def _passed(
    model: Model, task: Task, with_gradients: bool, batch_size: int
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n p"] | None]:
    """Features, and the last convolution's gradients where they are asked for."""
    pass_over = _features_and_gradients(model) if with_gradients else _features(model)
    n = len(task.y_train)
    size = equal_size(n, batch_size)
    features, gradients = [], []
    for start in range(0, n, size):
        ((x, real),) = equal_batches(model.preprocess(task.x_train[start : start + size]), size)
        of_batch = [np.asarray(each)[:real] for each in pass_over(x)]
        features.append(of_batch[0])
        gradients += of_batch[1:]
    joined = np.concatenate(features)
    if not (np.isfinite(joined).all() and bool(trees.finite(model.params))):  # a ReLU may hide it
        raise LinftError(f"{model.name} has weights or features that are not finite; train or load it anew")
    return joined, np.concatenate(gradients) if with_gradients else None


def _features_and_gradients(model: Model) -> Callable[[Array], tuple[Array, ...]]:
    """Features and gradients of a batch."""
    found = last_convolution_gradients(model)
    return lambda x: found(x)[1:]


def _features(model: Model) -> Callable[[Array], tuple[Array, ...]]:
    """Features of a batch; the head, whose size differs from source to source, is left out of the program."""
    kernel = trees.get(model.params, model.head)["kernel"]
    headless = trees.put(model.params, model.head, {"kernel": kernel[:, :1]})
    return lambda x: (forward_pass(model.forward, "features")(headless, model.batch_stats, x),)


def _kernel(
    model: Model, task: Task, gradients: ScoreGradients, seed: int, batch_size: int
) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "n n"] | None]:
    """The kernel of layer groups, and its standard error where it is projected."""
    x, (grouped, how) = model.preprocess(task.x_train), _how(model, gradients, seed, batch_size)
    if gradients.dimensions is None:
        return np.asarray(empirical_ntk(grouped, x, **how).total()), None
    kernel, errors = projected_ntk(grouped, x, dimensions=gradients.dimensions, **how)
    return np.asarray(kernel.total()), np.sqrt(sum(np.asarray(error) ** 2 for error in errors.values()))


def _how(model: Model, gradients: ScoreGradients, seed: int, batch_size: int) -> tuple[Model, dict[str, Any]]:
    """The model with layer groups of which the kernel is, and options of the engine."""
    how: dict[str, Any] = {"outputs": gradients.outputs, "draws": gradients.draws, "seed": seed}
    how |= {"batch_size": batch_size, "groups": None if gradients.groups == ("all",) else gradients.groups}
    if gradients.groups:
        return model, how
    leaves = [trees.path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(model.params)]
    last = f"{last_convolution(model)}/kernel"
    apart = {LAST: (last,), "others": tuple(leaf for leaf in leaves if leaf != last)}
    return model.replace(layer_groups=apart), how | {"groups": (LAST,)}


def _last_layer(
    model: Model, task: Task, seed: int, batch_size: int
) -> tuple[Float[np.ndarray, "n t p"], Float[np.ndarray, "n t q"]]:
    """Patches and gradients of the last convolution, along random signs over the logits."""
    path, images = last_convolution(model), task.x_train
    signs = jnp.asarray(np.random.default_rng(seed).choice([-1.0, 1.0], model.num_classes) / model.num_classes**0.5)
    parts = [
        last_layer(model, path, model.preprocess(images[i : i + batch_size]), signs.astype(model.dtype))
        for i in range(0, len(images), batch_size)
    ]
    inputs, gradients = zip(*parts, strict=True)
    return np.concatenate([np.asarray(each) for each in inputs]), np.concatenate([np.asarray(g) for g in gradients])


def _fresh_tangent(
    model: Model, task: Task, features: Float[np.ndarray, "n d"], gradients: ScoreGradients, seed: int, batch_size: int
) -> Tangent:
    """All that predicting fine-tuning without decay needs of the images: J_g w0_g, which only decay uses, is 0."""
    fresh = model.with_head(task.num_classes, jax.random.key(seed))
    head = trees.get(fresh.params, fresh.head)["kernel"]
    phi, labels = jnp.asarray(features), jnp.asarray(task.y_train)
    if gradients.groups:
        grouped, how = _how(fresh, gradients, seed, batch_size)
        kernel = empirical_ntk(grouped, model.preprocess(task.x_train), **how)
    else:
        _, jacobian = _passed(fresh, task, True, batch_size)
        assert jacobian is not None
        blocks = {fresh.head: head.shape[1] * (phi @ phi.T + 1), LAST: jnp.asarray(jacobian @ jacobian.T)}
        kernel = Kernel(blocks, "trace")
    logits, groups = phi @ head, tuple(kernel.blocks)
    nothing = {group: jnp.zeros_like(logits) for group in groups}
    return Tangent(
        logits, logits, labels, labels, kernel, kernel, nothing, nothing,
        {group: jnp.zeros(()) for group in groups},
        {group: _mixing(head, of_head=group == fresh.head) for group in groups},
    )  # fmt: skip


def _mixing(head: Float[Array, "d c"], of_head: bool) -> Float[Array, "c c"]:
    """How a trace spreads over pairs of logits: evenly for the head itself, WᵀW / ‖W‖² below it."""
    return jnp.eye(head.shape[1]) / head.shape[1] if of_head else head.T @ head / jnp.vdot(head, head)


def _no_source_head(model: Model) -> str | None:
    """Why the logits are not of the source's classes; None where they are, whether or not their names are known."""
    if model.source.get("head") == NEW_HEAD["head"]:
        return "the model has no source head: its head is a new one"
    names = model.source.get("class_names")
    if names and len(names) != model.num_classes:
        return f"the model has {model.num_classes} outputs for {len(names)} source classes: its head is another one"
    return None


def _no_class_means(model: Model) -> str | None:
    """Why the source's class means are not there, or not those of this network; None where they are."""
    if model.class_means is None:
        return "the source's class means are unknown; `linft zoo add --task` measures them"
    return None
