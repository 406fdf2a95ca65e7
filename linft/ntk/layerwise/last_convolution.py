"""The last convolution's gradients, with logits and features, in one pass over images.

Model selection asks for the kernel of the last convolution only (Deshpande and others 2021, section
3.3). Between it and the logits there are but masks, means and the head's matrix, so that what it
costs beside a forward pass is one matrix product an image (`factored`).
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from linft.core import trees
from linft.core.base import Model, dense
from linft.core.errors import LinftError
from linft.models.architectures.layers import StandardizedConv
from linft.ntk.layerwise import jacobians, plan
from linft.ntk.rows import Rows

CONVOLUTIONS = (nn.Conv, StandardizedConv)


class LastConvolution(NamedTuple):
    """Of n images; the trace kernel of the last convolution is the product of `gradients` with itself."""

    logits: Float[Array, "n c"]
    features: Float[Array, "n d"]
    gradients: Float[Array, "n p"]


def last_convolution(model: Model) -> str:
    """Path of the convolution that is called last before the head.

    Raises:
      LinftError: the network has none, or has parameters that no layer rule covers.

    Example:
      >>> import linft
      >>> last_convolution(linft.load_model("resnet14-cifar10"))
      'stage3/block1/conv2'
    """
    return _last(model, _plan(model)).path


def last_convolution_gradients(model: Model) -> Callable[[Float[Array, "n h w ch"]], LastConvolution]:
    """A function from preprocessed images to logits f, features φ and gradients G of the last convolution.

        G Gᵀ = Σ_c (∂f_c/∂w) (∂f_c/∂w)ᵀ

    w is the kernel of the last convolution. Where its channels each feed one feature, G has as many
    columns as w has numbers, and one backward pass through the layers above it serves all outputs;
    elsewhere as many for each output. The first batch shows which of the two it is.

    Raises:
      LinftError: as of `last_convolution`.

    Example:
      >>> import jax, jax.numpy as jnp, linft
      >>> model = linft.models.create("cifar_resnet8", 3, jax.random.key(0), width=4)
      >>> [array.shape for array in last_convolution_gradients(model)(jnp.ones((2, 32, 32, 3)))]
      [(2, 3), (2, 16), (2, 2304)]
    """
    head, one = trees.get(model.params, model.head), _one_output(model)
    layers = _plan(one)  # one program for all models of an architecture, however many outputs they have
    labels = {f"{_last(one, layers).path}/kernel": "last", f"{model.head}/kernel": "head"}
    every = jnp.eye(model.num_classes, dtype=head["kernel"].dtype)
    settled = jacobians.settling(one, layers, labels, every[:1, :1], "trace")

    @cache
    def of_all_outputs() -> Callable[[Array], Rows]:
        return jacobians.rows(model, _plan(model), labels, every, "trace")

    def rows(x: Array) -> Rows:
        chosen, offsets, found = settled(x)
        if not isinstance(chosen, jacobians.Wanted) or not chosen.factored:
            return of_all_outputs()(x)
        if found is not None:
            return found
        return jacobians.program(one.forward, chosen)(one.params, one.batch_stats, x, every[:1, :1], offsets)[0]

    def of_batch(x: Array) -> LastConvolution:
        with jax.default_matmul_precision("highest"):
            found = rows(x)
            (features,), (gradients,) = found.head["head"], found.dense["last"]
            return LastConvolution(dense(head, features), features, gradients.reshape(len(x), -1))

    return of_batch


def _one_output(model: Model) -> Model:
    """A model of one output, whose kernel is the trace of the model's for a layer whose channels each feed one feature.

    It is Σ_o (Σ_k V_ko²) ⟨H_no, H_mo⟩, where V is the head's matrix, so that the lengths of its rows are all of it.
    """
    kernel = trees.get(model.params, model.head)["kernel"]
    lengths = {"kernel": jnp.linalg.norm(kernel, axis=1)[:, None]}
    return model.replace(params=trees.put(model.params, model.head, lengths))


def _plan(model: Model) -> tuple[plan.Layer, ...]:
    try:
        return plan.plan(model, jnp.zeros((2, *model.preprocessing.input_size)))
    except plan.Uncovered as reason:
        raise LinftError(f"{reason}; the last convolution's kernel needs layers that rules cover") from None


def _last(model: Model, layers: tuple[plan.Layer, ...]) -> plan.Layer:
    kernels = [layer for layer in layers if "kernel" in plan.own(model.params, layer.path)]
    found = [layer for layer in kernels if isinstance(layer.module, CONVOLUTIONS)]
    if not found:
        raise LinftError(f"{model.name} has no convolution that trains; score it by the kernel of a layer group")
    return found[-1]
