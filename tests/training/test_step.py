"""However a step is computed, it is the same step: in parts, on many devices, from a stream, in other words."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from narrow import small_resnet

import linft
from linft.core import parallel, trees
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.data.stream import Batch
from linft.training.step import Execution, begin_training

RECIPE = Recipe(learning_rate=0.05, batch_size=8, steps=4)


@pytest.fixture(scope="module")
def model(digits) -> linft.Model:
    return small_resnet(10)


@pytest.fixture(scope="module")
def held(model, digits) -> Batch:
    return jax.tree.map(
        jnp.asarray, Batch(np.arange(24), model.preprocessing.resize(digits.x_train), None, digits.y_train)
    )


def steps(model, held, recipe=RECIPE, execution=Execution(), penalty=None, index=None):
    """Losses of the batches, and the last state."""
    state, advance = begin_training(model, recipe, 24, execution, penalty)
    losses = []
    for rows in recipe.batches(24) if index is None else index:
        state, loss = advance(state, Batch(rows[None]), held)
        losses.append(float(loss[0]))
    return np.array(losses), state


@pytest.fixture(scope="module")
def plain(model, held):
    return steps(model, held)


@pytest.mark.parametrize("augmentation", ["none", pytest.param("crop_flip", marks=pytest.mark.slow)])
def test_accumulated_gradients_are_those_of_the_batch(model, held, plain, augmentation):
    recipe = RECIPE.replace(augmentation=augmentation)
    whole = plain if augmentation == "none" else steps(model, held, recipe)
    parts = steps(model, held, recipe, Execution(accumulate=4))
    np.testing.assert_allclose(parts[0], whole[0], rtol=2e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), parts[1].params, whole[1].params)


def test_bfloat16_is_near_and_parameters_stay_float32(model, held, plain):
    losses, state = steps(model, held, execution=Execution(precision="bfloat16"))
    np.testing.assert_allclose(losses, plain[0], rtol=0.03)
    assert (losses != plain[0]).any()
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.batch_stats))} == {np.dtype("float32")}


@pytest.mark.slow
def test_mixup_mixes_images_and_labels_alike(model, held, plain):
    # A batch of one image over and over is its own partner, whatever the weight.
    same = np.zeros((1, 8), int)
    mixed, pure = (steps(model, held, RECIPE.replace(mixup=mixup, steps=1), index=same)[0] for mixup in (0.4, 0.0))
    np.testing.assert_allclose(mixed, pure, rtol=1e-6)
    several = steps(model, held, RECIPE.replace(mixup=0.4))[0]
    assert (abs(several - plain[0]) > 1e-4).all()


def test_a_penalty_is_added_with_its_strength(model, held, plain):
    def penalty(params, batch_stats, x):
        return jnp.sum(params["head"]["kernel"] ** 2)

    losses = steps(model, held, RECIPE.replace(delta=0.5, steps=1), penalty=penalty)[0]
    expected = plain[0][0] + 0.5 * np.sum(np.asarray(model.params["head"]["kernel"]) ** 2)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


@pytest.mark.parametrize("mode", ["frozen", pytest.param("train", marks=pytest.mark.slow)])
def test_a_run_is_measured_at_the_average_of_its_weights(model, held, mode):
    """Of statistics too; and it trains as without."""
    recipe = RECIPE.replace(batch_norm=mode, steps=3, frozen_groups=("stem",))
    states = [steps(model, held, recipe, index=recipe.batches(24)[:k])[1] for k in range(4)]
    last = steps(model, held, recipe.replace(ema=0.7))[1]
    jax.tree.map(np.testing.assert_array_equal, last[:2], states[-1][:2])
    mean = (model.params, model.batch_stats)
    for state in states[1:]:
        mean = jax.tree.map(lambda a, b: 0.7 * a + 0.3 * b, mean, state.measured)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), last.measured, mean)
    np.testing.assert_array_equal(last.measured[0]["stem"]["conv"]["kernel"], model.params["stem"]["conv"]["kernel"])
    assert np.abs(last.measured[0]["head"]["kernel"] - last.params["head"]["kernel"]).max() > 1e-4
    moved = trees.subtract(last.measured[1], model.batch_stats)
    assert (max(np.abs(leaf).max() for leaf in jax.tree.leaves(moved)) > 0) == (mode == "train")


@pytest.mark.slow
def test_statistics_over_parts_of_the_batch(model, held):
    whole, parts = (
        steps(model, held, RECIPE.replace(batch_norm="train", bn_batch_size=size, steps=1))[1] for size in (8, 4)
    )
    plain = steps(model, held, RECIPE.replace(batch_norm="train", steps=1))[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, plain)
    assert any(abs(a - b).max() > 1e-3 for a, b in zip(jax.tree.leaves(parts), jax.tree.leaves(plain), strict=True))


def test_a_batch_that_cannot_be_divided():
    with pytest.raises(LinftError, match="a batch of 50 cannot be divided into 4 equal parts"):
        Execution(accumulate=4).check(50)
    with pytest.raises(LinftError, match="2 devices were asked for; there are 1"):
        parallel.mesh(2)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The curve of one device."""
    return curve(tmp_path_factory.mktemp("one"), devices=1)


def curve(directory: Path, devices: int, processes: int = 1) -> Path:
    """Run parallel_run.py in as many processes, and wait."""
    script = Path(__file__).parents[1] / "support" / "parallel_run.py"
    commands = [
        [sys.executable, str(script), str(directory), str(devices), str(processes), str(rank)]
        for rank in range(processes)
    ]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    return directory / "curve.npz"


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "processes"), [(4, 2), (8, 1)])
def test_many_devices_and_hosts_train_as_one(alone, tmp_path, devices, processes):
    with np.load(alone) as expected, np.load(curve(tmp_path, devices, processes)) as got:
        for name in expected:
            np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
