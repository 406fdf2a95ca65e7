"""A model of any module at weights drawn by NumPy, and the least module that has statistics to follow."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from linft.core.base import Model
from linft.core.preprocessing import Preprocessing
from linft.models.from_flax import wrap

SIZE = (8, 8, 1)


def variables(module: nn.Module, size: tuple[int, int, int] = SIZE, seed: int = 0) -> Any:
    """Weights and statistics of a module, in place of its own initial ones, which take long to compile."""
    return like(jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *size))), seed)


def like(shapes: Any, seed: int = 0) -> Any:
    """Weights and statistics of these shapes, from NumPy."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        size, name = leaf.shape, path[-1].key
        start = {"var": 1.0, "scale": 1.0}.get(name, 0.0)
        noise = (
            rng.normal(size=size) / np.sqrt(np.prod(size[:-1])) if name == "kernel" else 0.1 * rng.uniform(size=size)
        )
        return jnp.asarray(start + noise, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def make(module: nn.Module, seed: int = 0) -> Model:
    """A model at weights from NumPy."""
    of_module = variables(module, seed=seed)
    groups = {name: (name,) for name in of_module["params"]}
    return wrap(module, of_module, "head", groups, Preprocessing(SIZE, (0.5,), (0.5,)), name=type(module).__name__)


class Stage(nn.Module):
    """A convolution and its norm."""

    width: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(self.width, (3, 3), strides=2, use_bias=False, name="conv")(x)
        return nn.tanh(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))


class Normed(nn.Module):
    """Two stages and a head for ten classes: the statistics of the second norm follow those of the first."""

    stages: tuple[str, str] = ("stage1", "stage2")

    @nn.compact
    def __call__(self, x, train: bool = False):
        for name, width in zip(self.stages, (3, 4), strict=True):
            x = Stage(width, name=name)(x, train)
        return nn.Dense(10, name="head")(x.mean((1, 2)))
