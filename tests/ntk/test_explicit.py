"""The Jacobian itself is that of automatic differentiation, for layers of every rule, and weights go with it."""

import drawn
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linft
from linft.core import trees
from linft.core.errors import LinftError
from linft.ntk.layerwise.explicit import flattened, jacobian, restored


class Every(nn.Module):
    """A layer of each rule, the last convolution feeding features one by one."""

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Conv(4, (3, 3), strides=2, name="plain")(x))
        x = nn.Conv(6, (3, 3), feature_group_count=2, use_bias=False, name="grouped")(x)
        x = nn.tanh(nn.BatchNorm(use_running_average=True, name="norm")(x))
        x = nn.tanh(nn.ConvTranspose(3, (2, 2), name="generic")(x))
        x = nn.LayerNorm(name="layer_norm")(nn.Dense(5, name="dense")(x))
        return nn.Dense(3, name="head")(nn.relu(nn.Conv(7, (1, 1), name="last")(x)).mean((1, 2)))


class Raw(nn.Module):
    """A parameter that is no layer's."""

    @nn.compact
    def __call__(self, x):
        raw = self.param("raw", nn.initializers.ones, (1, 4))
        return nn.Dense(3, name="head")(raw * nn.Dense(4, name="dense")(x.reshape(len(x), -1)))


def of_user(module: nn.Module) -> linft.Model:
    return linft.from_flax(module, drawn.variables(module, (8, 8, 3)), "head", (8, 8, 3))


@pytest.fixture(scope="module")
def every() -> linft.Model:
    return of_user(Every())


def by_autodiff(model: linft.Model, x: jax.Array, paths: tuple[str, ...]) -> np.ndarray:
    found = jax.jit(jax.jacobian(lambda p: model.apply(p, x)))(model.params)

    def row(n: int, k: int) -> np.ndarray:
        of_one = model.replace(params=jax.tree.map(lambda j: j[n, k], found))
        return np.concatenate([*flattened(of_one, x, paths).values()])

    return np.array([[row(n, k) for k in range(model.num_classes)] for n in range(len(x))])


@pytest.mark.parametrize("name", ["model", "every"])
def test_it_is_that_of_automatic_differentiation(name, request, images):
    model = request.getfixturevalue(name)
    labels = trees.labels(model.params, model.stages)
    stages = {trees.path_of(p): g for p, g in jax.tree_util.tree_leaves_with_path(labels)}
    told = []
    got = np.asarray(jacobian(model, images[:5], stages, 3, told.append))
    expected = by_autodiff(model, images[:5], tuple(stages))
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())
    assert told == [3, 2]
    head = {path: stage for path, stage in stages.items() if path.startswith("head/")}
    alone = np.asarray(jacobian(model, images[:5], head, 5))
    np.testing.assert_allclose(alone, by_autodiff(model, images[:5], tuple(head)), rtol=1e-4, atol=1e-6)


def test_a_move_of_the_weights_is_in_its_order(every, images):
    rng = np.random.default_rng(0)
    u = jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape), w.dtype), every.params)
    paths = {trees.path_of(p): "all" for p, _ in jax.tree_util.tree_leaves_with_path(u)}
    moves = flattened(every.replace(params=u), images[:4], tuple(paths))
    got = jacobian(every, images[:4], paths, 4) @ jnp.concatenate([*moves.values()])
    expected = jax.jvp(lambda p: every.apply(p, images[:4]), (every.params,), (u,))[1]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_so_it_is_of_parameters_that_are_no_layers(images):
    model = of_user(Raw())
    paths = {trees.path_of(p): "all" for p, _ in jax.tree_util.tree_leaves_with_path(model.params)}
    got = np.asarray(jacobian(model, images[:3], paths, 3))
    np.testing.assert_allclose(got, by_autodiff(model, images[:3], tuple(paths)), rtol=1e-4, atol=1e-5)
    vectors = flattened(model, images, tuple(paths))
    assert jax.tree.all(jax.tree.map(np.array_equal, restored(model, images, vectors), model.params))


def test_what_is_not_finite_is_refused_by_its_image(every, images):
    broken = images[:4].at[2].set(jnp.nan)
    with pytest.raises(LinftError, match="the Jacobian is not finite at image 2"):
        jacobian(every, broken, {"head/kernel": "head"}, 2)
