"""The curvature along a predicted path is the real network's there, and recipes meet the edge where it says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import linft
from linft import predict
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.predict.sharpening import Sharpening, curvature, kept, layers_of, ways

LAYERS = {
    "cross-entropy": Recipe(),
    "squared error": Recipe(loss="squared_error"),
    "some frozen, some faster": Recipe(frozen_groups=("conv",), rate_multipliers=(("head", 3.0),)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_curvature_is_that_of_the_explicit_matrix(model, task, name):
    recipe, x = LAYERS[name], model.preprocess(task.x_train)
    factors = {group: recipe.multiplier(group) for group in model.params}
    logits = model.apply(model.params, x)
    jacobian = jax.jacobian(lambda params: model.apply(params, x))(model.params)
    theta = sum(
        factors[group] * flat @ flat.T
        for group, of_group in jacobian.items()
        for flat in (leaf.reshape(logits.size, -1) for leaf in jax.tree.leaves(of_group))
    )
    loss = optax.softmax_cross_entropy_with_integer_labels if recipe.loss == "cross_entropy" else _squared
    hessian = jax.hessian(lambda f: loss(f.reshape(logits.shape), task.y_train).mean())(logits.reshape(-1))
    expected = np.linalg.eigvals(theta @ hessian).real.max()
    np.testing.assert_allclose(curvature(model, x, layers_of(recipe), products=30), expected, rtol=1e-9)


def _squared(logits, labels):
    return ((logits - jnp.eye(logits.shape[1])[labels]) ** 2).sum(-1) / 2


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_way_is_that_of_optax_under_a_constant_gradient(nesterov, momentum):
    recipe = Recipe(momentum=momentum, nesterov=nesterov, schedule="cosine", warmup_steps=3, batch_size=2, steps=12)
    rates = recipe.rates(2)
    chain = optax.sgd(lambda step: jnp.asarray(rates)[step], momentum, nesterov)
    w, state, far = jnp.zeros(()), chain.init(jnp.zeros(())), []
    for _ in rates:
        update, state = chain.update(jnp.ones(()), state)
        w = w + update
        far.append(-float(w))
    np.testing.assert_allclose(ways(recipe, 2), far, rtol=1e-12)


@pytest.fixture(scope="module")
def fresh(model):
    return model.with_head(3, jax.random.key(0), "normal", scale=0.01)


@pytest.fixture(scope="module")
def found(fresh, task):
    return predict.sharpening(fresh, task)


def test_under_a_fresh_head_it_grows_to_what_the_network_really_has(fresh, task, found):
    assert (np.diff(found.train_loss) < 0).all() and (np.diff(found.way) > 0).all()
    assert found.train_loss[-1] < 0.55 * found.train_loss[0]
    assert found.lambda_max[-1] > 1.5 * found.lambda_max[0]
    slow = Recipe(learning_rate=float(found.way[-1]) / 4000, momentum=0.9, batch_size=None, steps=400)
    real, x = {}, fresh.preprocess(task.x_train)
    linft.finetune(
        fresh, task, record_every=40, visit=lambda step, at: real.update({step: curvature(at, x, found.layers)})
    )(slow)
    way = ways(slow, 10)
    met = {step: lambda_max for step, lambda_max in real.items() if way[step - 1] <= found.way[3]}
    foretold = np.interp([way[step - 1] for step in met], found.way, np.log(found.lambda_max))
    assert len(met) >= 3
    np.testing.assert_allclose(np.exp(foretold), list(met.values()), rtol=0.25)


def flat(lambda_max: float) -> Sharpening:
    """A path on which nothing sharpens."""
    return Sharpening(way=(0.0, 1.0), train_loss=(2.0, 1.0), lambda_max=(lambda_max,) * 2, layers=layers_of(Recipe()))


@pytest.mark.parametrize("rule", [{"nesterov": False}, {}, {"momentum": 0.0, "weight_decay": 0.5}])
def test_on_a_flat_path_the_edge_is_that_of_stability(tangent, rule):
    recipe = Recipe(batch_size=None, steps=8, schedule="cosine", **rule)
    edge = predict.stability(tangent, recipe)
    for factor in (0.9, 1.1):
        here = recipe.replace(learning_rate=factor * edge.largest_stable_rate)
        on_path = flat(edge.lambda_max).edge(here, 10)
        np.testing.assert_allclose(on_path.overshoot, factor, rtol=1e-6)
        assert on_path.step == (0 if factor > 1 else None)


def test_it_is_met_where_the_rate_is_above_the_curvature_there():
    path = Sharpening(way=(0.0, 10.0), train_loss=(2.0, 1.0), lambda_max=(1.0, 100.0), layers=layers_of(Recipe()))
    recipe = Recipe(learning_rate=0.2, momentum=0.0, batch_size=1, steps=60)
    edge = path.edge(recipe, 1)
    assert edge.step == 25  # after 25 steps, half of the way, the curvature is 10, and 0.2 · 10 the limit of 2
    assert edge.overshoot == pytest.approx(10) and edge.breaks and "expected to break" in str(edge)
    calm = path.edge(recipe.replace(steps=20), 1)
    assert calm.step is None and not calm.breaks and "below the edge of stability" in str(calm)
    between = path.edge(recipe.replace(steps=32), 1)
    assert between.step == 25 and not between.breaks and "oscillate" in str(between)


def test_a_path_is_found_once(found, tmp_path):
    file = tmp_path / "path.json"
    assert kept(file, lambda: found) is found
    assert kept(file, lambda: pytest.fail("it is known")) == found


def test_what_a_path_does_not_tell_is_refused(fresh, task):
    path = flat(1.0)
    for recipe, reason in (
        (Recipe(frozen_groups=("conv",)), "other layers or factors"),
        (Recipe(loss="squared_error"), "another loss"),
        (Recipe(clip_norm=1.0), "clipped"),
        (Recipe(optimizer="adam"), "Adam is not linear"),
        (Recipe(batch_norm="train"), "training mode"),
    ):
        with pytest.raises(LinftError, match=reason):
            path.edge(recipe.replace(steps=2), 4)
    with pytest.raises(LinftError, match="training mode"):
        predict.sharpening(fresh, task, Recipe(batch_norm="train"))
