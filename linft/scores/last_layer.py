"""What goes into the last convolution, and the gradient at what comes out of it."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from linft.core.base import Model
from linft.core.errors import LinftError
from linft.core.trees import Tree


def last_layer(
    model: Model, path: str, x: Float[Array, "n h w ch"], direction: Float[Array, "c"]
) -> tuple[Float[Array, "n t p"], Float[Array, "n t q"]]:
    """Patches a_it of a convolution's input at every position t, and ∂(e·f)(x_i)/∂(its output at t).

    The gradient of e·f with respect to the kernel is Σ_t J_it ⊗ a_it.

    Args:
      path: of the convolution in the model's params; it must not be grouped.
      x: preprocessed images.
      direction: e.

    Raises:
      LinftError: it is a grouped convolution.
    """
    return _program(model.forward, path)(model.params, model.batch_stats, x, direction)


@lru_cache(maxsize=32)
def _program(forward: Callable, path: str) -> Callable:
    @jax.jit
    def both(params: Tree, batch_stats: Tree, x: Array, direction: Array) -> tuple[Array, Array]:
        def along(zero: Array | None) -> tuple[Array, tuple[Array, Array]]:
            kept: list[tuple[Array, Array]] = []

            def intercept(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
                output = call(*args, **kwargs)
                if "/".join(context.module.path) != path or context.method_name != "__call__" or kept:
                    return output
                kept.append((_patches(context.module, args[0]), output))
                return output if zero is None else output + zero

            with nn.intercept_methods(intercept):
                logits, _ = forward(params, batch_stats, x)
            return (logits @ direction).sum(), kept[0]

        _, (_, output) = jax.eval_shape(lambda: along(None))
        gradient, (patches, _) = jax.grad(along, has_aux=True)(jnp.zeros(output.shape, output.dtype))
        return patches, gradient.reshape(len(x), -1, gradient.shape[-1])

    return both


def _patches(module: Any, x: Array) -> Float[Array, "n t p"]:
    """The part of the input under the kernel, at every position."""
    if module.feature_group_count != 1:
        raise LinftError("the last convolution is grouped; its inputs and gradients do not factor")
    rank = len(module.kernel_size)
    strides, dilation = (_tuple(each, rank) for each in (module.strides, module.kernel_dilation))
    padding = module.padding
    if not isinstance(padding, str):
        padding = [(p, p) if isinstance(p, int) else tuple(p) for p in _tuple(padding, rank)]
    patches = jax.lax.conv_general_dilated_patches(
        x,
        module.kernel_size,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return patches.reshape(len(x), -1, patches.shape[-1])


def _tuple(value: Any, rank: int) -> tuple:
    return (1 if value is None else value,) * rank if value is None or isinstance(value, int) else tuple(value)
