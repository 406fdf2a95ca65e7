"""Predictions of training-mode recipes: the training of the network linearized through its batch's statistics."""

import json
from functools import partial

import drawn
import jax
import jax.numpy as jnp
import judges
import msgspec
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from replayed import CURVES, with_all_anchors
from safetensors import safe_open
from safetensors.numpy import save_file

import linft
from linft import predict
from linft.core import losses, trajectory_json, trees
from linft.core.base import Model
from linft.core.errors import LinftError
from linft.models import training_mode
from linft.ntk.tiled import memory
from linft.predict.tangent import load, save

MOMENTUM = 0.9  # of every norm of the network below
RECIPE = linft.Recipe(
    learning_rate=0.02,
    batch_size=4,
    steps=6,
    weight_decay=0.01,
    rate_multipliers=(("stage1", 0.5),),
    batch_norm="train",
)


@pytest.fixture
def case(x64, digits, monkeypatch: pytest.MonkeyPatch) -> tuple[Model, linft.Task]:
    """A narrow network, all directions of whose statistics are kept."""
    del x64
    monkeypatch.setattr(training_mode.in_training_mode, "__defaults__", (10_000, None))
    model = drawn.make(drawn.Normed())
    model = model.replace(params=jax.tree.map(partial(jnp.asarray, dtype=jnp.float64), model.params))
    return model, digits.subset(8, 4, seed=0)


def network(model: Model, task: linft.Task) -> judges.Network:
    """Training images in training mode, test images with their statistics; by hand."""
    x, x_test = model.preprocess(task.x_train), model.preprocess(task.x_test)
    zero, train = jax.tree.map(jnp.zeros_like, model.batch_stats), model.forward_train
    _, unravel = ravel_pytree(model.params)
    assert train is not None

    def outputs(w: jax.Array) -> jax.Array:
        on_train, new = train(unravel(w), zero, x, jax.random.key(0))
        own = jax.tree.map(lambda leaf: leaf / (1 - MOMENTUM), new)
        return jnp.concatenate([on_train, model.forward(unravel(w), own, x_test)[0]])

    values, jacobian = jax.jit(outputs), jax.jit(jax.jacrev(outputs))
    return judges.Network(lambda w: np.asarray(values(w)), lambda w: np.asarray(jacobian(w)))


def explicit(model: Model, task: linft.Task) -> judges.Explicit:
    """Its outputs to first order."""
    of, w0 = network(model, task), np.asarray(ravel_pytree(model.params)[0])
    return judges.explicit(model, task)._replace(f0=of.logits(w0), jacobian=of.jacobian(w0))


def test_dual_is_the_training_of_the_network_linearized_through_its_statistics(case):
    model, task = case
    of = explicit(model, task)
    found = predict.dual(model, task, record_every=2, batch_norm="train")(RECIPE)
    expected = judges.sgd(judges.linear(of), of, RECIPE, found.steps)
    for name in CURVES:
        np.testing.assert_allclose(getattr(found, name), expected[name], rtol=1e-9, err_msg=name)


@pytest.mark.slow
def test_a_moving_kernel_follows_the_statistics_along_its_path(case):
    model, task = case
    of = explicit(model, task)
    found = with_all_anchors(predict.moving(model, task, anchors=2, record_every=2, batch_norm="train"))(RECIPE)
    near = judges.moving(partial(judges.along, network(model, task)), of, RECIPE, 2)
    expected = judges.sgd(near, of, RECIPE, found.steps)
    for name in CURVES:
        np.testing.assert_allclose(getattr(found, name), expected[name], rtol=1e-7, err_msg=name)
    assert (
        np.abs(
            found.train_loss / predict.dual(model, task, record_every=2, batch_norm="train")(RECIPE).train_loss - 1
        ).max()
        > 1e-3
    )


def test_how_near_the_edge_is_is_that_of_the_kernel_in_training_mode(case):
    found = predict.moving(*case, anchors=1, batch_norm="train").follow(RECIPE)
    whole = RECIPE.replace(batch_size=None)
    edge = predict.stability(predict.tangent(*case, batch_norm="train"), whole)
    np.testing.assert_allclose(found.edges, [edge.h / edge.limit], rtol=1e-6)


def test_features_dual_is_the_training_with_an_exact_head(case):
    model, task = case
    view = training_mode.in_training_mode(model, task.x_train)
    of = judges.explicit(view, task)
    found = predict.feature_dual(model, task, record_every=2, batch_norm="train")(RECIPE)
    expected = judges.sgd(judges.linear_features(view, task), of, RECIPE, found.steps)
    for name in CURVES:
        np.testing.assert_allclose(getattr(found, name), expected[name], rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("at", ["logits", "features"])
def test_in_weights_the_full_batch_is_that_of_function_space(case, at):
    """Of a batch of all training images the minibatch's statistics are those of the kernel."""
    model, task = case
    recipe = RECIPE.replace(batch_size=None)
    kind = {"logits": predict.dual, "features": predict.feature_dual}[at]
    predicted = kind(model, task, record_every=3, batch_norm="train")(recipe)
    linear = linft.linearize(model, at, batch_norm="train")
    trained = linft.finetune(linear, task, record_every=3)(recipe)
    for group, distance in trained.distance.items():
        np.testing.assert_allclose(predicted.distance[group], distance, rtol=1e-7, atol=1e-12, err_msg=group)


def test_linearized_in_training_mode_is_the_first_order_of_it(case):
    """Outputs and running averages differ from the network's own by a second order in the step."""
    model, task = case
    linear, x = linft.linearize(model, batch_norm="train"), model.preprocess(task.x_train)
    direction = jax.tree.map(lambda w: jnp.asarray(np.random.default_rng(0).normal(size=w.shape)), model.params)

    def error(size: float) -> list[float]:
        there = jax.tree.map(lambda w, d: w + size * d, model.params, direction)
        assert linear.forward_train is not None and model.forward_train is not None
        a, s = linear.forward_train(there, model.batch_stats, x, jax.random.key(0))
        b, t = model.forward_train(there, model.batch_stats, x, jax.random.key(0))
        return [float(jnp.linalg.norm(a - b)), float(jnp.linalg.norm(ravel_pytree(s)[0] - ravel_pytree(t)[0]))]

    for coarse, fine in zip(error(2e-4), error(1e-4), strict=True):
        assert coarse / fine == pytest.approx(4, rel=0.05)


def test_a_real_run_tells_its_curves_with_its_own_statistics(case):
    model, task = case
    run = linft.finetune(model, task, record_every=3)(RECIPE)
    tuned, x = run.model, model.preprocess(task.x_train)
    assert tuned is not None and tuned.forward_train is not None and run.reestimated is not None
    logits, _ = tuned.forward_train(tuned.params, tuned.batch_stats, x, jax.random.key(0))
    expected = losses.mean_loss(RECIPE.loss, logits, jnp.asarray(task.y_train))
    assert run.reestimated.train_loss[-1] == pytest.approx(float(expected), rel=1e-6)
    assert run.reestimated.train_loss[-1] != run.train_loss[-1]
    assert linft.finetune(model, task)(RECIPE.replace(batch_norm="frozen", steps=1)).reestimated is None


def far(model: Model) -> Model:
    """With pretrained statistics that are not the task's."""
    return model.replace(batch_stats=jax.tree.map(lambda leaf: 2 * leaf, model.batch_stats))


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9}, {"bn_batch_size": 2}], ids=["plain", "averaged", "in parts"])
def test_where_weights_stand_the_running_averages_are_the_real_ones(case, changes):
    model, task = far(case[0]), case[1]
    still = RECIPE.replace(learning_rate=1e-30, steps=9, **changes)
    real = linft.finetune(model, task)(still)
    predicted = predict.moving(model, task, anchors=1, batch_norm="train")(still)
    assert real.model is not None and predicted.model is not None and predicted.running is not None
    places = np.searchsorted(real.steps, predicted.running.steps)
    assert predicted.running.steps.tolist() == [0, 2, 3, 4, 6, 8, 9]
    for name in CURVES:
        np.testing.assert_allclose(getattr(predicted.running, name), getattr(real, name)[places], rtol=1e-6)
    for own, theirs in zip(*map(jax.tree.leaves, (predicted.model.batch_stats, real.model.batch_stats)), strict=True):
        np.testing.assert_allclose(own, theirs, rtol=1e-6)
    assert abs(real.test_loss[-1] / real.reestimated.test_loss[-1] - 1) > 1e-2, "the averages lag behind"


@pytest.mark.parametrize("at", ["network", "features"])
def test_running_averages_tend_to_the_real_ones_with_the_rate(case, at):
    """The weights of one anchor are off by a second order in the rate, and so is all that follows from them."""
    model, task = case

    def error(rate: float) -> float:
        recipe = RECIPE.replace(learning_rate=rate, batch_size=None)
        real = linft.finetune(model, task)(recipe)
        running = predict.moving(model, task, at=at, rank=4, anchors=1, batch_norm="train")(recipe).running
        assert running is not None
        return abs(running.test_loss[-1] - real.test_loss[-1])

    assert error(2e-3) / error(1e-3) == pytest.approx(4, rel=0.2)


def test_running_averages_lag_as_the_real_ones_do(case):
    model, task = far(case[0]), case[1]
    real = linft.finetune(model, task)(RECIPE)
    predicted = predict.moving(model, task, anchors=1, batch_norm="train")(RECIPE)
    assert predicted.running is not None
    for name in ("train_loss", "test_loss"):
        own, theirs = getattr(predicted.running, name)[-1], getattr(real, name)[-1]
        assert abs(own - theirs) < 0.2 * abs(getattr(predicted, name)[-1] - theirs), name
    saved = json.loads(msgspec.json.encode(trajectory_json.saved(predicted)))
    again = trajectory_json.restored(msgspec.convert(saved, trajectory_json.SavedTrajectory)).running
    assert again is not None
    for own, theirs in zip(again, predicted.running, strict=True):
        np.testing.assert_array_equal(own, theirs)


def test_frozen_batch_norm_has_no_running_averages(case):
    assert predict.moving(*case, anchors=1)(RECIPE.replace(batch_norm="frozen")).running is None


def test_prediction_begins_where_the_run_does(case):
    model, task = case
    real = linft.finetune(model, task, record_every=3)(RECIPE).reestimated
    predicted = predict.dual(model, task, record_every=2, batch_norm="train")(RECIPE)
    for name in CURVES:
        assert getattr(predicted, name)[0] == pytest.approx(getattr(real, name)[0], rel=1e-5)


def test_each_kernel_takes_recipes_of_its_own_mode_only(case):
    model, task = case
    frozen, train = (predict.tangent(model, task, batch_norm=mode, outputs="trace") for mode in ("frozen", "train"))
    with pytest.raises(LinftError, match='pass batch_norm="train" to get its kernel'):
        predict.dual(frozen)(RECIPE)
    with pytest.raises(LinftError, match='pass batch_norm="frozen" to get its kernel'):
        predict.dual(train)(RECIPE.replace(batch_norm="frozen"))
    with pytest.raises(LinftError, match='in training mode, and the kernel\'s is frozen; pass batch_norm="train"'):
        predict.stability(frozen, RECIPE)
    with pytest.raises(LinftError, match='frozen, and the kernel\'s is in training mode; pass batch_norm="frozen"'):
        predict.stability(train, RECIPE.replace(batch_norm="frozen"))
    assert predict.stability(train, RECIPE).h != predict.stability(frozen, RECIPE.replace(batch_norm="frozen")).h
    other = RECIPE.replace(batch_norm="frozen", batch_size=None, loss="squared_error", weight_decay=0.0)
    for kind in (predict.spectral, predict.gradient_flow):
        with pytest.raises(
            LinftError, match="this recipe: batch norm is frozen, and the kernel's is in training mode;"
        ):
            kind(train)(other)
        with pytest.raises(
            LinftError, match="this recipe: batch norm is in training mode, and the kernel's is frozen;"
        ):
            kind(frozen)(other.replace(batch_norm="train"))
    with pytest.raises(LinftError, match='pass batch_norm="train" to get its kernel'):
        predict.relinearized(model, task, after=1)(RECIPE)


def test_the_closed_form_is_the_replay(case):
    model, task = case
    recipe = RECIPE.replace(batch_size=None, loss="squared_error", rate_multipliers=())
    found = predict.tangent(model, task, batch_norm="train")
    spectral, dual = (run(found, record_every=3)(recipe) for run in (predict.spectral, predict.dual))
    for name in CURVES:
        np.testing.assert_allclose(getattr(spectral, name), getattr(dual, name), rtol=1e-9, err_msg=name)
    for group, distance in dual.distance.items():
        np.testing.assert_allclose(spectral.distance[group], distance, rtol=1e-6, err_msg=group)
    frozen = predict.spectral(model, task, record_every=3)(recipe.replace(batch_norm="frozen"))
    assert abs(frozen.train_loss[-1] / spectral.train_loss[-1] - 1) > 1e-2


@pytest.mark.parametrize("outputs", ["full", "trace"])
def test_the_flow_is_that_of_its_kernel(case, outputs):
    model, task = case
    recipe = RECIPE.replace(batch_size=None, weight_decay=0.0)
    if outputs == "trace":  # which is exact of the head alone
        recipe = recipe.replace(frozen_groups=("stage*",))
    found = predict.gradient_flow(model, task, record_every=3, outputs=outputs, batch_norm="train")(recipe)
    expected = judges.flow(explicit(model, task), recipe, found.steps)
    for name in CURVES:
        np.testing.assert_allclose(getattr(found, name), expected[name], rtol=1e-5, err_msg=name)


def test_relinearized_goes_on_from_the_real_weights(case):
    """Without velocity and order what follows is the training of the network linearized there."""
    model, task = case
    recipe = RECIPE.replace(momentum=0.0, nesterov=False, batch_size=None, weight_decay=0.0)
    real = linft.finetune(model, task, record_every=2, until=4)(recipe)
    found = predict.relinearized(model, task, after=4, record_every=2, batch_norm="train")(recipe)
    rest = predict.dual(real.model, task, record_every=2, batch_norm="train")(recipe.replace(steps=2))
    for name in CURVES:
        np.testing.assert_allclose(getattr(found, name)[:2], getattr(real.reestimated, name)[:2], err_msg=name)
        np.testing.assert_allclose(getattr(found, name)[2:], getattr(rest, name), rtol=1e-9, err_msg=name)


def test_it_is_kept_with_the_tangent(case, tmp_path):
    model, task = case
    found = predict.tangent(model, task, batch_norm="train", outputs="trace")
    save(tmp_path / "tangent", found)
    assert load(tmp_path / "tangent").batch_norm == "train"
    assert trees.count(load(tmp_path / "tangent")) == trees.count(found)


def test_what_does_not_fit_is_refused_with_its_size(case, monkeypatch: pytest.MonkeyPatch):
    model, task = case
    monkeypatch.setattr(memory, "budget", lambda asked: 1000)
    with pytest.raises(LinftError, match=r"derivative of the statistics.*smaller network"):
        predict.dual(model, task, batch_norm="train")


def test_networks_without_training_mode_are_refused(case):
    model, task = case
    with pytest.raises(LinftError, match="has no training mode"):
        predict.dual(linft.linearize(model), task, batch_norm="train")
    with pytest.raises(LinftError, match="has no training mode"):
        linft.linearize(linft.linearize(model), batch_norm="train")


def test_files_older_than_training_mode_are_of_frozen_batch_norm(case, tmp_path):
    model, task = case
    save(tmp_path / "new", predict.tangent(model, task, outputs="trace"))
    with safe_open(tmp_path / "new", "np") as file:
        meta = {name: value for name, value in file.metadata().items() if name != "batch_norm"}
        save_file({key: file.get_tensor(key) for key in file.keys()}, tmp_path / "old", meta)  # noqa: SIM118
    assert load(tmp_path / "old").batch_norm == "frozen"
