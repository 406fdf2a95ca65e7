"""Whether a network draws random numbers while it trains, as dropout does."""

import jax
import jax.numpy as jnp

from linft.core.base import Model


def draws(model: Model) -> bool:
    """Whether training mode depends on its random key; tells by its trace, without a run.

    Example:
      >>> import linft
      >>> from linft.core.preprocessing import Preprocessing
      >>> key = jax.random.key(0)
      >>> draws(linft.models.create("alexnet", 10, key, Preprocessing((63, 63, 3)), width=1))
      True
      >>> draws(linft.models.create("cifar_resnet8", 10, key, width=2))
      False
    """
    if model.forward_train is None:
        return False
    x = jnp.zeros((2, *model.preprocessing.input_size), model.dtype)
    traced = jax.make_jaxpr(model.forward_train)(model.params, model.batch_stats, x, jax.random.key(0))
    return "random_bits" in str(traced)
