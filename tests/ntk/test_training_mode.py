"""The kernel of a network in training mode is that of the whole batch's explicit Jacobian."""

from functools import partial

import drawn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import linft
from linft.core.base import Model
from linft.models.training_mode import in_training_mode
from linft.ntk.empirical import train_test_ntk

ALL = 10_000  # directions of the statistics


@pytest.fixture
def case(x64, digits) -> tuple[Model, linft.Task]:
    del x64
    model = drawn.make(drawn.Normed())
    model = model.replace(params=jax.tree.map(partial(jnp.asarray, dtype=jnp.float64), model.params))
    return model, digits.subset(6, 3, seed=0)


def whole(model: Model, task: linft.Task):
    """w -> logits of the training images in training mode, and of the test images at their statistics, by hand."""
    x, x_test = model.preprocess(task.x_train), model.preprocess(task.x_test)
    flat, unravel = ravel_pytree(model.params)
    zero, train = jax.tree.map(jnp.zeros_like, model.batch_stats), model.forward_train
    assert train is not None

    def outputs(w):
        on_train, new = train(unravel(w), zero, x, jax.random.key(0))
        momentum = 0.9  # of every norm of this network
        statistics = jax.tree.map(lambda leaf: leaf / (1 - momentum), new)
        return on_train, model.forward(unravel(w), statistics, x_test)[0]

    return outputs, flat


def test_kernel_is_that_of_the_explicit_jacobian(case):
    model, task = case
    outputs, w0 = whole(model, task)
    jacobian = [np.asarray(j).reshape(-1, len(w0)) for j in jax.jit(jax.jacrev(outputs))(w0)]
    view = in_training_mode(model, task.x_train, rank=ALL)
    train, test = train_test_ntk(view, model.preprocess(task.x_train), model.preprocess(task.x_test))
    for kernel, rows in ((train, jacobian[0]), (test, jacobian[1])):
        expected = rows @ jacobian[0].T
        got = np.asarray(kernel.total()).reshape(expected.shape)
        np.testing.assert_allclose(got, expected, atol=1e-9 * np.abs(expected).max())


def test_weights_before_a_norm_move_nothing_along_themselves(case):
    """Scale invariance: J · w of a convolution before batch norm is 0, up to the norm's epsilon."""
    model, task = case
    view = in_training_mode(model, task.x_train, rank=ALL)
    x = model.preprocess(task.x_train)
    kernel = model.params["stage1"]["conv"]["kernel"]
    along = jax.tree.map(jnp.zeros_like, model.params)
    along["stage1"]["conv"]["kernel"] = kernel

    def pushed(of: Model):
        return jax.jit(lambda p: jax.jvp(lambda p: of.apply(p, x), (p,), (along,))[1])(model.params)

    assert float(jnp.abs(pushed(view)).max()) < 1e-3 * float(jnp.abs(pushed(model)).max())


def test_few_directions_are_near(case):
    model, task = case
    x = model.preprocess(task.x_train)
    exact, near = (
        np.asarray(linft.empirical_ntk(in_training_mode(model, task.x_train, rank=rank), x).total())
        for rank in (ALL, 11)
    )
    assert 0 < np.linalg.norm(near - exact) < 0.05 * np.linalg.norm(exact)


def test_directions_but_the_leading_ones_take_parts_of_the_images():
    model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=2)
    task = linft.load_task("digits").subset(64, 10, seed=0)  # four parts of 16
    x = model.preprocess(task.x_train)[:8]
    exact, near, none = (
        np.asarray(linft.empirical_ntk(in_training_mode(model, task.x_train, rank=48, leading=leading), x).total())
        for leading in (48, 16, 0)
    )
    errors = [np.linalg.norm(other - exact) / np.linalg.norm(exact) for other in (near, none)]
    assert 0 < errors[0] < 0.5 * errors[1]
