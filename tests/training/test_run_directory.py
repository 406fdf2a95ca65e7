"""A run in a directory: read once it is finished, gone on with when cut off, refused where it is another one."""

from contextlib import contextmanager
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from drawn import make

import linft
from linft.core.errors import LinftError
from linft.runtime import schema
from linft.training import run_directory
from linft.training.history import Tracking
from linft.training.result import RunResult
from linft.training.run_directory import Diverged, RunOptions, run_in
from linft.training.step import Execution
from linft.training.validation import choose, over_seeds

RECIPE = linft.Recipe(learning_rate=0.05, batch_size=8, steps=6)


class Net(nn.Module):
    """A convolution, batch norm and a head."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.relu(nn.Conv(4, (3, 3), strides=4, name="conv")(x))
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(10, name="head")(x.reshape(len(x), -1))


@pytest.fixture(scope="module")
def model() -> linft.Model:
    return make(Net())


@pytest.fixture(scope="module")
def finished(model, digits, tmp_path_factory):
    """A finished run and its directory."""
    directory = tmp_path_factory.mktemp("run")
    return run_in(directory, model, digits, RECIPE), directory


@pytest.fixture
def untrained(monkeypatch):
    """Nothing is trained while this is there."""
    monkeypatch.setattr(run_directory, "finetune", lambda *_, **__: pytest.fail("it was trained again"))


def equal(one, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_finished_run_is_only_read(finished, model, digits, untrained):
    done, directory = finished
    again = run_in(directory, model, digits, RECIPE)
    assert again.result == schema.read(directory / "result.json", RunResult) == done.result
    equal(again.model.params, done.model.params)
    equal(again.model.batch_stats, done.model.batch_stats)
    assert again.best is None
    config = yaml.safe_load((directory / "config.yaml").read_text())
    assert config["recipe"]["steps"] == 6 and config["model"] == model.name


def test_the_result_is_that_of_finetune(finished, model, digits):
    done, _ = finished
    direct = linft.finetune(model, digits)(RECIPE)
    equal(done.model.params, direct.model.params)
    assert done.result.trajectory.train_loss == direct.train_loss.tolist()
    np.testing.assert_allclose(
        done.model.logits_of(digits.x_test), direct.model.logits_of(digits.x_test), rtol=1e-5, atol=1e-6
    )


OTHERS = {
    "another subset": ("images", lambda m, t: ((m, t.replace(x_train=t.x_train[::-1]), RECIPE), {})),
    "other labels": ("images", lambda m, t: ((m, t.replace(y_train=t.y_train[::-1]), RECIPE), {})),
    "other test images": ("images", lambda m, t: ((m, t.replace(x_test=255 - t.x_test), RECIPE), {})),
    "other weights": ("weights", lambda m, t: ((nudged(m), t, RECIPE), {})),
    "other statistics": (
        "weights",
        lambda m, t: ((m.replace(batch_stats=jax.tree.map(lambda s: s + 1, m.batch_stats)), t, RECIPE), {}),
    ),
    "other preprocessing": ("weights", lambda m, t: ((smaller(m), t, RECIPE), {})),
    "another recipe": ("recipe", lambda m, t: ((m, t, RECIPE.replace(momentum=0.0)), {})),
    "another end": ("until", lambda m, t: ((m, t, RECIPE), {"until": 3})),
    "another arithmetic": (
        "precision",
        lambda m, t: ((m, t, RECIPE), {"conduct": RunOptions(Execution("bfloat16"))}),
    ),
    "other records": (
        "record_every",
        lambda m, t: ((m, t, RECIPE), {"conduct": RunOptions(record_every=2)}),
    ),
}


def nudged(model):
    """Other weights of the same name."""
    head = {**model.params["head"], "bias": model.params["head"]["bias"] + 1e-6}
    return model.replace(params={**model.params, "head": head})


def smaller(model):
    crop = replace(model.preprocessing, crop=0.5)
    return model.replace(preprocessing=crop)


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("config", [None, {"name": "mine"}], ids=["by default", "described"])
def test_another_run_of_the_same_names_is_refused(model, digits, tmp_path, monkeypatch, other, config):
    """Whether it is finished or not, and however the caller describes it."""

    def cut(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_directory, "finetune", cut)
    with pytest.raises(KeyboardInterrupt):
        run_in(tmp_path, model, digits, RECIPE, config=config)
    named, change = OTHERS[other]
    arguments, options = change(model, digits)
    with pytest.raises(
        LinftError, match=rf"holds a run with another {named}( \(\S+, now \S+\))?; give what it was begun with"
    ):
        run_in(tmp_path, *arguments, config=config, **options)


def test_other_devices_and_checkpoints_are_the_same_run(finished, model, digits, untrained):
    run_in(finished[1], model, digits, RECIPE, conduct=RunOptions(workers=2, keep=1))


def test_arrays_are_hashed_once_for_all_seeds(model, digits, tmp_path, monkeypatch):
    task, hashed = digits.subset(16, 12), []
    real = linft.core.task.digest
    monkeypatch.setattr(linft.core.task, "digest", lambda tree: hashed.append(tree) or real(tree))
    over_seeds(tmp_path, lambda task, seed: model, task, RECIPE.replace(steps=1), (0, 1, 2), untracked, {})
    assert len(hashed) == 1


def untracked(directory, steps) -> Tracking:
    @contextmanager
    def opened(step):
        yield lambda step, values: None

    return opened


def test_seeds_and_choices_of_another_start_are_refused(model, digits, tmp_path):
    short = RECIPE.replace(steps=2)
    over_seeds(tmp_path, lambda task, seed: model, digits, short, (0,), untracked, {"model": "the same"})
    choose(tmp_path, lambda task, seed: model, digits, short, (0.05,), 0.5, untracked, {"model": "the same"})
    other = nudged(model)
    with pytest.raises(LinftError, match="seed-0 holds a run with another weights"):
        over_seeds(tmp_path, lambda task, seed: other, digits, short, (0,), untracked, {"model": "the same"})
    with pytest.raises(LinftError, match=r"rate-0\.05 holds a run with another weights"):
        choose(tmp_path, lambda task, seed: other, digits, short, (0.05,), 0.5, untracked, {"model": "the same"})
    with pytest.raises(LinftError, match="seed-0 holds a run with another recipe"):
        over_seeds(
            tmp_path, lambda *_: model, digits, short.replace(momentum=0.5), (0,), untracked, {"model": "the same"}
        )


def test_an_interrupted_run_goes_on_to_the_same_end(finished, model, digits, tmp_path):
    done, _ = finished
    seen = []

    @contextmanager
    def leaving(step):
        def track(step, values):
            seen.append(step)
            if step == 4:
                raise KeyboardInterrupt

        yield track

    with pytest.raises(KeyboardInterrupt):
        run_in(tmp_path, model, digits, RECIPE, tracking=leaving)
    assert not (tmp_path / "result.json").exists() and (tmp_path / "checkpoints" / "3").is_dir()
    steps = []

    @contextmanager
    def noted(step):
        steps.append(step)
        yield lambda step, values: steps.append(step)

    resumed = run_in(tmp_path, model, digits, RECIPE, tracking=noted)
    assert steps[0] == 3 and 1 not in steps
    equal(resumed.model.params, done.model.params)
    assert resumed.result.trajectory.test_loss == done.result.trajectory.test_loss


KINDS = {
    "from_flax": lambda model: model,
    "linearized": linft.linearize,
    "features linearized": lambda model: linft.linearize(model, at="features"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_of_no_registered_architecture_ends_well_and_is_read_again(kind, model, digits, tmp_path, request):
    network = KINDS[kind](model)
    assert network.architecture is None
    done = run_in(tmp_path, network, digits, RECIPE)
    assert done.result.final.accuracy == schema.read(tmp_path / "result.json", RunResult).final.accuracy
    request.getfixturevalue("untrained")
    again = run_in(tmp_path, network, digits, RECIPE)
    equal(again.model.params, done.model.params)
    np.testing.assert_allclose(
        again.model.logits_of(digits.x_test), done.model.logits_of(digits.x_test), rtol=1e-6, atol=1e-6
    )
    assert again.result == done.result


def test_a_linearized_network_of_the_same_weights_is_another_run(finished, model, digits):
    with pytest.raises(LinftError, match="another model"):
        run_in(finished[1], linft.linearize(model), digits, RECIPE)


def test_results_outlive_weights_that_cannot_be_written(model, digits, tmp_path, monkeypatch):
    def full(*_, **__):
        raise LinftError("cannot write model.safetensors (No space left on device)")

    with monkeypatch.context() as patch:
        patch.setattr(run_directory, "save_tensors", full)
        with pytest.raises(LinftError, match="No space left"):
            run_in(tmp_path, model, digits, RECIPE)
    before = schema.read(tmp_path / "result.json", RunResult)
    done = run_in(tmp_path, model, digits, RECIPE)
    assert (tmp_path / "model.safetensors").exists() and done.result.final == before.final


def test_a_run_that_breaks_says_where(model, digits, tmp_path):
    with pytest.raises(Diverged, match=r"at step \d+, with learning rate 1e\+06; the last good checkpoint is of step"):
        run_in(tmp_path, model, digits, RECIPE.replace(learning_rate=1e6))
    assert not (tmp_path / "result.json").exists()


def test_plain_tensors_of_another_network_are_refused(model, tmp_path):
    run_directory.save_weights(model.with_head(3, jax.random.key(0)), tmp_path / "model.safetensors")
    with pytest.raises(LinftError, match="has tensors of another network"):
        run_directory._load_weights(model, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(LinftError, match="cannot read the weights in"):
        run_directory._load_weights(model, tmp_path / "model.safetensors")


def test_adapters_are_folded_into_the_model_on_disk(model, digits, tmp_path):
    """Of a network of no registered architecture; the command's test is of one that is."""
    adapted = linft.lora(model, rank=2, key=jax.random.key(0))
    done = run_in(tmp_path, adapted, digits, RECIPE)
    again = run_in(tmp_path, adapted, digits, RECIPE)
    assert done.model.name == again.model.name == done.best.name == "Net"
    equal(again.model.params, done.model.params)
    assert jax.tree.structure(done.model.params) == jax.tree.structure(model.params)
    assert not np.allclose(done.model.params["conv"]["kernel"], model.params["conv"]["kernel"])
    assert done.result.model.parameters == 4 * 2 + 9 * 2 + 170


def test_digests_tell_values_dtypes_and_paths_apart(model):
    assert model.digest == model.replace().digest != nudged(model).digest
    assert model.digest != model.replace(params=jax.tree.map(lambda p: p.astype(jnp.bfloat16), model.params)).digest
