"""DELTA: keep a network's feature maps, not its weights, near the pretrained ones (Li and others 2019, ICLR).

A channel counts by its attention: how much the target's loss grows without it. Where the paper leaves a
choice or its published code does something else, this is what is done here:

- Both sides are in evaluation mode, so that the penalty is 0 at the pretrained weights. (There the trained
  side normalises by its batch and the pretrained one does not: a distance that no weights can close.)
- The mean over images and positions, and a weighted mean over channels: a strength does not depend on the
  batch, the input's size or a layer's width. (There a sum over images, and over the channels too.)
- The maps are the outputs of the layer groups, after norm, shortcut and ReLU, of which a channel can be
  truly removed. (There the last convolutions, whose zeroed filters the norm turns into a constant, and
  which some architectures do not have.)
- A channel's importance is measured on all training images as they are. (There on four random batches,
  shuffled, cropped and flipped.)
- The softmax is over the layer's increases in units of 5 of their standard deviations, as in the published
  code; the paper prints a softmax of the increases themselves. Their size varies by orders of magnitude:
  printed so, the weights reach 18 times the uniform ones in a ResNet-14 on 64 images, and stay within
  0.05% of them in the first stage of the authors' ResNet-101 on Stanford Dogs.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import tracers
from jaxtyping import Array, Float

from linft.core import losses, trees
from linft.core.base import Model
from linft.core.errors import LinftError
from linft.core.forward_pass import Forward
from linft.core.preprocessing import Preprocessing
from linft.core.task import Task
from linft.core.trees import Tree

TEMPERATURE = 5.0  # standard deviations of a layer's increases
ROUND_OFF = 1e-6  # of a squared error in float32, which is ½ at logits of zero
MASKS = 16  # how many channels are tried in one pass

Maps = Callable[[Tree, Tree, Array], dict[str, Array]]
"""(params, batch_stats, x) -> {layer: [n h w c]}."""


def feature_layers(model: Model) -> tuple[str, ...]:
    """The last module of each stage, or all of it, whose output is a feature map [n h w c], from the input on.

    Example:
      >>> import jax, linft
      >>> feature_layers(linft.models.create("cifar_resnet8", 5, jax.random.key(0), width=4))
      ('stem', 'stage1', 'stage2', 'stage3')
    """
    group_of = {path: stage for stage, prefixes in model.stages.items() for path in (*prefixes, stage)}
    last = {group_of[path]: path for path, _ in _calls(model, group_of)}
    if not last:
        raise LinftError(f"no layer group of {model.name} gives a feature map [n h w c]; name the layers that do")
    return tuple(last[group] for group in model.stages if group in last)


def feature_maps(model: Model, layers: Sequence[str]) -> Maps:
    """A function (params, batch_stats, x) -> {layer: its output [n h w c]}, batch norm frozen.

    Raises:
      LinftError: a layer that is not called once with an output [n h w c]; a linearized model, whose
        network runs at the pretrained weights only.
    """
    _channels(model, layers)

    def maps(params: Tree, batch_stats: Tree, x: Array) -> dict[str, Array]:
        found: dict[str, Array] = {}

        def keep(path: str, output: Array) -> Array:
            found[path] = output
            return output

        with nn.intercept_methods(_at(layers, keep)):
            model.forward(params, batch_stats, x)
        return found

    return maps


def loss_increases(
    model: Model, task: Task, layers: Sequence[str] | None = None, *, batch: int = 32
) -> dict[str, Float[Array, "channels"]]:
    """How much the target's training loss grows when a channel of the pretrained network is zeroed.

    Δ_j = L(network without channel j) − L(network), with a new head on the frozen features, the ridge
    solution of `with_head(init="probe")`, and L the mean squared error ½‖f − e_y‖² that it minimises, on
    all training images; pass `task.subset(n)` for fewer. As many passes over the images as there are
    channels, each only from the layer on.

    Args:
      layers: paths of modules with outputs [n h w c]; `feature_layers(model)` by default.
      batch: images in one pass, which tries 16 channels at once.

    Raises:
      LinftError: as for `feature_maps`.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(20, 10)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=2)
      >>> {path: d.shape for path, d in loss_increases(model, task, ["stage2", "stage3"]).items()}
      {'stage2': (4,), 'stage3': (8,)}
    """
    if batch < 1:
        raise LinftError(f"the batch is {batch}; it must be 1 or more")
    widths = _channels(model, feature_layers(model) if layers is None else layers)
    probe = model.with_head(task.num_classes, init="probe", task=task)
    images, labels = probe.preprocessing.resize(task.x_train), jnp.asarray(task.y_train)
    functions = (probe.forward, probe.preprocessing)
    increases = {}
    for path, width in widths.items():
        whole = np.ones((1 + -(1 + width) % MASKS, width))  # one for the loss itself, the others to fill the last pass
        masks = np.concatenate([whole, 1 - np.eye(width)]).reshape(-1, MASKS, width).astype(np.float32)
        total = np.zeros(masks.shape[:2])
        for i in range(0, len(images), batch):
            part = slice(i, i + batch)
            some = (probe.params, probe.batch_stats, images[part], labels[part])
            total += jax.device_get([_sums(*functions, path, *some, channels) for channels in masks])
        means = total.ravel() / len(images)
        increases[path] = jnp.asarray(means[-width:] - means[0], jnp.float32)
    return increases


def attention(
    model: Model, task: Task, layers: Sequence[str] | None = None, *, batch: int = 32
) -> dict[str, Float[Array, "channels"]]:
    """Weights of each layer's channels, of sum 1: the softmax of their `loss_increases`, the worst losses first.

    W_j = softmax_j(Δ_j / (5 s)) with s the standard deviation of the layer's Δ; uniform where they are
    all equal. Li and others 2019, with the scale of their code, so that no weight depends on the loss's
    unit; `jax.nn.softmax` of `loss_increases` is the formula as printed.

    Args, errors: as for `loss_increases`.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(20, 10)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=2)
      >>> weights = attention(model, task, ["stage3"])
      >>> round(float(weights["stage3"].sum()), 5)
      1.0
    """
    increases = loss_increases(model, task, layers, batch=batch)
    return {
        path: jax.nn.softmax(increase / (TEMPERATURE * jnp.maximum(jnp.std(increase), ROUND_OFF)))
        for path, increase in increases.items()
    }


def penalty(
    model: Model, weights: Mapping[str, Float[Array, "channels"]]
) -> Callable[[Tree, Tree, Float[Array, "n h w ch"]], Float[Array, ""]]:
    """A function Ω(params, batch_stats, x), to be added to the loss times a strength.

    Ω = ½ Σ_layers mean over images and positions of Σ_j W_j (F_j(w; x) − F_j(w0; x))², where F are the
    feature maps [n h w c], w0 the model's own weights and W the `attention`, or weights of one's own. Both
    sides are in evaluation mode, whatever the mode of training, and in the precision of x. Li and others
    2019, whose second term, on the new head, is the weight decay of its layer group.

    Raises:
      LinftError: as for `feature_maps`; weights of another number than a layer's channels.

    Example:
      >>> import jax, jax.numpy as jnp, linft
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=2)
      >>> distance = penalty(model, {"stage3": jnp.full(8, 1 / 8)})
      >>> float(distance(model.params, model.batch_stats, jnp.ones((2, 32, 32, 3))))
      0.0
    """
    for path, width in _channels(model, tuple(weights)).items():
        if weights[path].shape != (width,):
            raise LinftError(f"the layer {path} has {width} channels and weights of shape {weights[path].shape}")
    maps = feature_maps(model, tuple(weights))

    def distance(params: Tree, batch_stats: Tree, x: Array) -> Array:
        pretrained = jax.tree.map(lambda w: jax.lax.stop_gradient(w).astype(x.dtype), model.params)
        now, start = maps(params, batch_stats, x), maps(pretrained, model.batch_stats, x)
        of_layers = [jnp.mean(jnp.square((now[p] - start[p]).astype(w.dtype)) @ w) for p, w in weights.items()]
        return 0.5 * jnp.sum(jnp.stack(of_layers))

    return distance


@partial(jax.jit, static_argnums=(0, 1, 2))
def _sums(
    forward: Forward,
    preprocessing: Preprocessing,
    path: str,
    params: Tree,
    batch_stats: Tree,
    images: Array,
    y: Array,
    masks: Array,
) -> Array:
    """Sum of the losses on images with each of the masks [k c] on a layer's channels, [k]."""

    def masked(mask: Array) -> Array:
        with nn.intercept_methods(_at((path,), lambda _, output: output * mask[None, None, None, :])):
            logits = forward(params, batch_stats, preprocessing.normalize(images, trees.precision(params)))[0]
        return jnp.sum(losses.per_example("squared_error", logits, y))

    return jax.vmap(masked)(masks)


def _at(paths: Collection[str], change: Callable[[str, Any], Any]) -> Callable:
    """An interceptor that replaces the output of the modules at some paths by change(path, output)."""
    inside: list[str] = []  # a module that calls its parent class's method calls the interceptor again

    def intercept(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        path = "/".join(context.module.path)
        if path not in paths or path in inside or context.method_name != "__call__":
            return call(*args, **kwargs)
        inside.append(path)
        try:
            output = call(*args, **kwargs)
        finally:
            inside.remove(path)
        return change(path, output)

    return intercept


def _calls(model: Model, paths: Collection[str]) -> list[tuple[str, int]]:
    """Path and channels of every call, among these modules, that gives a feature map, in order."""
    calls: list[tuple[str, int]] = []
    x = jax.ShapeDtypeStruct((2, *model.preprocessing.input_size), jnp.result_type(float))

    def watched(params: Tree, batch_stats: Tree, x: Array) -> Any:
        outer = tracers.current_trace()

        def note(path: str, output: Any) -> Any:
            if tracers.current_trace() != outer:
                raise LinftError(
                    f"{path} of {model.name} runs inside a transformation, as in a linearized model; "
                    "DELTA needs the network itself"
                )
            if getattr(output, "ndim", 0) == 4:
                calls.append((path, output.shape[-1]))
            return output

        with nn.intercept_methods(_at(paths, note)):
            return model.forward(params, batch_stats, x)

    jax.eval_shape(watched, model.params, model.batch_stats, x)
    return calls


def _channels(model: Model, layers: Sequence[str]) -> dict[str, int]:
    """How many channels each of some layers has, if it is one that DELTA can use."""
    if not layers:
        raise LinftError("DELTA needs one layer or more")
    calls = _calls(model, layers)
    for path in layers:
        times = sum(called == path for called, _ in calls)
        if times != 1:
            raise LinftError(
                f"{path!r} gives a feature map [n h w c] {times} times in a forward pass of {model.name}; "
                "name modules that do so once, such as those of feature_layers(model)"
            )
    return dict(calls)
