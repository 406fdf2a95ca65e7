"""`projected_ntk`: the kernel from random projections of each example's gradient, with its standard error."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linft.core.base import Kernel, Model, Outputs
from linft.core.forward_pass import equal_size
from linft.core.trees import Groups
from linft.ntk import engine
from linft.ntk.empirical import checked, how_of, labels_of
from linft.ntk.layerwise import gram, projection
from linft.ntk.layerwise.follow import follow
from linft.ntk.rows import Rows
from linft.ntk.tiled.tiles import counter, refuse_not_finite
from linft.runtime.progress import Count


class Projected(NamedTuple):
    """A kernel from projected gradients."""

    kernel: Kernel
    """Unbiased."""
    standard_error: dict[str, Array]
    """Of every entry, by group, in the shape of the kernel's blocks."""


def projected_ntk(
    model: Model,
    x1: Float[Array, "n h w ch"],
    x2: Float[Array, "m h w ch"] | None = None,
    *,
    dimensions: int = projection.DIMENSIONS,
    outputs: Outputs = "trace",
    groups: Groups | Sequence[str] | None = None,
    batch_size: int = 16,
    draws: int = 1,
    seed: int = 0,
    progress: Count | None = None,
) -> Projected:
    """The kernel of `empirical_ntk` where parameters of more than k numbers are projected to k.

        Θ̂_g[n, c, m, c'] = Σ_p ⟨Φ_p ∂f_c(x_n)/∂w_p, Φ_p ∂f_c'(x_m)/∂w_p⟩,     E ΦᵀΦ = 1

    (Deshpande and others 2021, section 3.2; Φ as in `projection`). What is held and multiplied are k
    numbers for each parameter, image and output instead of all.

    Args:
      dimensions: k.
      seed: of Φ, and of the signs of pseudo kernels.
      model, x1, x2, outputs, groups, batch_size, draws, progress: as in `empirical_ntk`.

    Raises:
      LinftError: too few dimensions, values that are not finite, outputs that depend on other images.

    Example:
      >>> import jax, jax.numpy as jnp, linft
      >>> model = linft.models.create("cifar_resnet8", 3, jax.random.key(0), width=4)
      >>> kernel, error = projected_ntk(model, jnp.ones((2, 32, 32, 3)), dimensions=512, groups=["stage3"])
      >>> kernel.blocks["stage3"].shape == error["stage3"].shape == (2, 2)
      True
    """
    projection.check(dimensions, seed)
    how = how_of(outputs=outputs, batch_size=batch_size, draws=draws, seed=seed, sketch=(dimensions, seed))
    x1, x2 = checked(model, x1), None if x2 is None else checked(model, x2)
    labels, cotangents = labels_of(model, groups), engine.directions(how, model.num_classes, x1.dtype)
    ours = engine.of_layers(model, follow(model, x1), labels, cotangents, how)
    tell = counter(progress, len(x1) + (0 if x2 is None else len(x2)))

    def held(x: Array) -> Rows:
        return engine.held(ours, x, equal_size(len(x), batch_size), tell)

    left = held(x1)
    right = left if x2 is None else held(x2)
    blocks = ours.between(left, right)
    refuse_not_finite(blocks, 0, 0)
    with jax.default_matmul_precision("highest"):
        variances = gram.variances(left, right, outputs, len(cotangents))
    kernel = Kernel({g: jnp.asarray(blocks[g]) for g in dict.fromkeys(labels.values())}, outputs, "layerwise")
    return Projected(kernel, {g: jnp.asarray(np.sqrt(v), x1.dtype) for g, v in variances.items()})
