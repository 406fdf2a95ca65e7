"""How far a prediction says that it is to be trusted, against errors counted by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import linft
from linft import predict
from linft.core import losses
from linft.core.base import Trajectory
from linft.core.trajectory_json import restored, saved
from linft.predict import certificate
from linft.predict.certificate import LEFT, OF_CHANGE, OF_LOOKS, Evidence, steps_to_look_at

LOSS = np.array([4.0, 3.0, 2.0, 1.0, 0.0])


def run(loss: np.ndarray, diverged_at: int | None = None) -> Trajectory:
    return Trajectory(np.arange(len(loss)), *[loss] * 4, distance={}, norm={}, seconds=0.0, diverged_at=diverged_at)


def evidence(runs: list[Trajectory], looks: dict[int, float]) -> Evidence:
    return certificate.evidence([r.train_loss for r in runs], looks, runs[-1].diverged_at is not None)


def test_with_one_anchor_the_network_at_the_predicted_weights_tells():
    found = evidence([run(LOSS + 1)], {2: 3.5, 4: 9.0})  # off by 0.5, and by more than is predicted, which is 1
    assert found.error(5) == pytest.approx(OF_LOOKS * np.mean([0, 0.25, 0.5, 0.75, 1.0]) / (LOSS + 1).mean())
    assert found.error(3) == pytest.approx(OF_LOOKS * np.mean([0, 0.25, 0.5]) / (LOSS + 1)[:3].mean())


def test_with_more_the_change_by_the_last_tells():
    found = evidence([run(LOSS + np.array([0, 0, 0, 0.5, 2])), run(LOSS)], {})
    assert found.error(5) == pytest.approx(OF_CHANGE * 0.5 / LOSS.mean())
    assert found.error(3) == 0
    assert found.certificate(0.1 * OF_CHANGE).horizon == 3
    looked = evidence([run(LOSS), run(LOSS)], {2: 2.5, 4: 0.0})
    assert looked.error(5) == pytest.approx(OF_LOOKS * np.mean([0, 0.25, 0.5, 0.25, 0]) / LOSS.mean())


def test_an_anchor_that_changes_nothing_proves_little():
    found = evidence([run(LOSS + 1), run(LOSS), run(LOSS)], {})
    assert found.error(5) == pytest.approx(OF_CHANGE * LEFT / LOSS.mean())


def test_a_prediction_that_diverges_is_trusted_up_to_some_step_only():
    found = evidence([run(LOSS), run(LOSS[:4], diverged_at=4)], {}).certificate(0.1)
    assert (found.error, found.horizon, found.loss) == (None, 2, 2.0)
    assert str(found) == "not to be trusted as a whole; within 10 % up to step 2, a train loss of 2"
    other = evidence([run(LOSS[:3], diverged_at=3), run(LOSS)], {}).certificate(0.1)
    assert (other.error, other.horizon) == (None, 2)


def test_steps_are_spread_and_end_with_the_last():
    assert steps_to_look_at(run(np.ones(25))) == [4, 8, 12, 16, 20, 24]
    assert steps_to_look_at(run(np.ones(3))) == [1, 2] and steps_to_look_at(run(np.ones(1))) == []


@pytest.mark.parametrize("at", ["network", "features"])
def test_looks_are_the_losses_of_the_network_at_the_predicted_weights(model, task, at):
    """Of a replay on a linear network they are what is predicted."""
    linear = linft.linearize(model) if at == "network" else linft.linearize(model, "features")
    recipe = linft.Recipe(learning_rate=0.02, batch_size=5, steps=6, weight_decay=0.01)
    (found,) = predict.moving(model, task, at=at, anchors=1, rank=5, record_every=1).stages(recipe)
    x, labels, real = model.preprocess(task.x_train), jnp.asarray(task.y_train), {}

    def look(step: int, network: linft.Model) -> None:
        real[step] = float(losses.mean_loss(recipe.loss, model.apply(network.params, x), labels))

    trained = linft.finetune(linear, task, record_every=1, visit=look)(recipe)
    np.testing.assert_allclose(found.evidence.predicted, trained.train_loss, rtol=1e-6)
    assert found.trajectory.model is not None and trained.model is not None
    weights, expected = (ravel_pytree(run.model.params)[0] for run in (found.trajectory, trained))
    np.testing.assert_allclose(weights, expected, rtol=1e-6, atol=1e-9)
    assert found.evidence.looks == pytest.approx(real, rel=1e-6)


def test_it_is_kept_with_the_run(model, task):
    found = predict.moving(model, task, anchors=1)(linft.Recipe(learning_rate=0.02, batch_size=5, steps=6))
    assert found.certificate is not None and restored(saved(found)).certificate == found.certificate
