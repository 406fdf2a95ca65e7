"""In float32, as users run them, predictions are those of float64 to float32's rounding."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linft
from linft import predict
from linft.core.recipe import Recipe
from linft.predict.tangent import to_trace

RECIPE = Recipe(learning_rate=0.01, loss="squared_error", batch_size=None, steps=50)
RUNS = {
    "dual": (predict.dual, RECIPE.replace(loss="cross_entropy", batch_size=4, weight_decay=0.01)),
    "dual on traces": (lambda tangent: predict.dual(to_trace(tangent)), RECIPE.replace(batch_size=4)),
    "spectral": (predict.spectral, RECIPE.replace(weight_decay=0.01)),
    "flow, squared error": (predict.gradient_flow, RECIPE),
    "flow, cross-entropy": (predict.gradient_flow, RECIPE.replace(loss="cross_entropy")),
}


@pytest.fixture
def single(tangent) -> Iterator[linft.Tangent]:
    """The tangent in float32, and float64 off."""
    leaves, structure = jax.tree.flatten(jax.device_get(tangent))
    jax.config.update("jax_enable_x64", False)
    try:
        yield jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in leaves])
    finally:
        jax.config.update("jax_enable_x64", True)


@pytest.fixture(scope="module")
def double(tangent) -> dict[str, linft.Trajectory]:
    return {name: run(tangent)(recipe) for name, (run, recipe) in RUNS.items()}


@pytest.mark.parametrize("name", RUNS)
def test_runs_in_float32(double, single, name):
    run, recipe = RUNS[name]
    trajectory = run(single)(recipe)
    assert single.logits_train.dtype == "float32"
    for curve in ("train_loss", "test_loss"):
        np.testing.assert_allclose(getattr(trajectory, curve), getattr(double[name], curve), rtol=1e-3)


def test_stability_in_float32(tangent, single):
    kernel = sum(np.asarray(block) for block in tangent.kernel_train.blocks.values())
    lambda_max = np.linalg.eigvalsh(kernel.reshape(30, 30))[-1] / 10
    np.testing.assert_allclose(predict.stability(single, RECIPE).lambda_max, lambda_max, rtol=1e-5)
