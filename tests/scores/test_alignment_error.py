"""The error of an alignment against its spread over draws of the entries' errors, and over projections."""

import jax
import numpy as np

import linft
from linft.scores import lgc
from linft.scores.alignment_error import alignment_error
from linft.scores.evidence import Gradients, gather


def test_it_is_the_spread_over_draws():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 5)
    features = np.eye(4)[y] + 0.5 * rng.normal(size=(20, 4))
    kernel, errors = features @ features.T, 0.02 * rng.uniform(0.5, 1.5, size=(20, 20))
    errors = (errors + errors.T) / 2

    def drawn():
        noise = np.tril(rng.normal(size=(20, 20)) * errors)
        return lgc(kernel + noise + np.tril(noise, -1).T, y)

    spread = np.std([drawn() for _ in range(2000)])
    np.testing.assert_allclose(alignment_error(kernel, errors, y), spread, rtol=0.06)


def test_a_projected_kernel_is_off_by_about_as_much(digits):
    model = linft.models.create("cifar_resnet8", 4, jax.random.key(0), width=4)
    exact = lgc(gather(model, digits, ("kernel",), gradients=Gradients(("stage3",))).kernel, digits.y_train)
    some = gather(model, digits, ("kernel",), gradients=Gradients(("stage3",), dimensions=512))
    told = alignment_error(some.kernel, some.kernel_error, digits.y_train)
    assert 0 < told < 0.2
    assert 0 < abs(lgc(some.kernel, digits.y_train) - exact) < 5 * told
