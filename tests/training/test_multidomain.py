"""A network on many domains is, in each of them, the plain model that it falls apart into."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linft import Recipe, load_model, load_task, save_model
from linft.core.errors import LinftError
from linft.core.task import Task
from linft.models import create
from linft.training import multidomain
from linft.training.multidomain import train_domains

RECIPE = Recipe(learning_rate=0.02, steps=12, batch_size=12, batch_norm="train")
SHARINGS = ("shared", "multi-bn", "adapter")


@pytest.fixture(scope="module")
def domains() -> list[Task]:
    """The digits below 5, and all of them in negative: other classes, other statistics."""
    few = load_task("digits").subset(300, 100)
    low, high = few.y_train < 5, few.y_test < 5
    first = Task.from_arrays(few.x_train[low], few.y_train[low], few.x_test[high], few.y_test[high], name="low")
    return [first, few.replace(x_train=255 - few.x_train, x_test=255 - few.x_test, name="negative")]


@pytest.fixture(scope="module")
def model():
    return create("cifar_resnet8", 10, jax.random.key(0), width=4)


def joint_of(model, domains, sharing):
    """The network on both domains, and random parameters for it."""
    offsets = np.cumsum([0, *(task.num_classes for task in domains)])
    joint = multidomain._joint(model.with_head(int(offsets[-1]), jax.random.key(1)), offsets, sharing)
    rng = np.random.default_rng(0)
    params, batch_stats = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.1, 0.5, leaf.shape), jnp.float32), (joint.params, joint.batch_stats)
    )
    return joint, params, batch_stats, offsets


def test_every_step_takes_as_many_images_of_each_domain(domains):
    batches = multidomain._balanced(domains, RECIPE)
    first = len(domains[0].y_train)
    assert batches.shape == (12, 24)
    assert (batches[:, :12] < first).all() and (batches[:, 12:] >= first).all()
    assert len(np.unique(batches[:, :12])) == 12 * 12  # the smaller one's first epoch goes through it once


@pytest.mark.parametrize("sharing", ["multi-bn", "adapter"])
def test_the_joint_network_is_the_network_of_each_domain(model, domains, sharing):
    joint, params, batch_stats, offsets = joint_of(model, domains, sharing)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(8, 32, 32, 3)), jnp.float32)
    logits, changed = jax.jit(joint.forward_train)(params, batch_stats, x, jax.random.key(0))
    state = multidomain.State(params, batch_stats, None, jnp.zeros((), jnp.int32))
    for d, part in enumerate((slice(0, 4), slice(4, 8))):
        plain = multidomain._domain(model, state, d, offsets, sharing)
        own, own_changed = jax.jit(plain.forward_train)(plain.params, plain.batch_stats, x[part], jax.random.key(0))
        columns = slice(offsets[d], offsets[d + 1])
        np.testing.assert_allclose(logits[part, columns], own, rtol=1e-4, atol=1e-4 * float(jnp.abs(own).max()))
        of_domain = jax.tree.map(lambda leaf, d=d: leaf[d], changed)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), of_domain, own_changed)
        assert (np.delete(logits[part], np.r_[columns], axis=1) < -1e8).all()


def test_shared_statistics_are_those_of_all_domains(model, domains):
    joint, params, batch_stats, offsets = joint_of(model, domains, "shared")
    x = jnp.asarray(np.random.default_rng(1).normal(size=(8, 32, 32, 3)), jnp.float32)
    logits, changed = jax.jit(joint.forward_train)(params, batch_stats, x, jax.random.key(0))
    wide = model.with_head(int(offsets[-1]), jax.random.key(1))
    own, own_changed = jax.jit(wide.forward_train)(params, batch_stats, x, jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), changed, own_changed)
    np.testing.assert_allclose(logits[:4, :5], own[:4, :5], rtol=1e-5)
    np.testing.assert_allclose(logits[4:, 5:], own[4:, 5:], rtol=1e-5)


@pytest.mark.parametrize(
    "sharing", [s if s == "multi-bn" else pytest.param(s, marks=pytest.mark.slow) for s in SHARINGS]
)
def test_each_domain_is_a_plain_model(model, domains, sharing, tmp_path):
    seen = []
    experts = train_domains(model, domains, RECIPE, sharing, lambda step, steps: seen.append((step, steps)))
    assert seen[-1] == (12, 12)
    kernels = [expert.params["stem"]["conv"]["kernel"] for expert in experts]
    assert (sharing == "adapter") == bool(jnp.any(kernels[0] != kernels[1]))
    scales = [expert.params["stem"]["norm"]["scale"] for expert in experts]
    assert (sharing == "shared") == bool(jnp.all(scales[0] == scales[1]))
    for expert, task in zip(experts, domains, strict=True):
        assert jax.tree.structure(expert.params) == jax.tree.structure(model.params)
        assert expert.num_classes == task.num_classes
        save_model(expert, tmp_path / f"{task.name}.safetensors")
        again = load_model(tmp_path / f"{task.name}.safetensors")
        assert np.array_equal(again.logits_of(task.x_test).argmax(1), expert.logits_of(task.x_test).argmax(1))


@pytest.mark.slow
def test_both_domains_are_learnt(domains):
    model = create("cifar_resnet8", 10, jax.random.key(0), width=8)
    recipe = RECIPE.replace(steps=60, batch_size=24)
    for expert, task in zip(train_domains(model, domains, recipe), domains, strict=True):
        assert np.mean(expert.logits_of(task.x_train).argmax(1) == task.y_train) > 1.5 / task.num_classes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_norm": "frozen"}, "needs steps, a batch size .* the same decay"),
        ({"epochs": 2}, "needs steps"),
        ({"batch_size": None}, "needs steps"),
        ({"decay_vectors": False}, "the same decay for all parameters"),
        ({"label_smoothing": 0.1}, "takes no label_smoothing, which would reach the other domains"),
    ],
)
def test_refuses_a_recipe(model, domains, changes, message):
    with pytest.raises(LinftError, match=message):
        train_domains(model, domains, RECIPE.replace(**changes))


def test_refuses_one_task_and_a_training_that_diverges(model, domains):
    with pytest.raises(LinftError, match="two tasks or more"):
        train_domains(model, domains[:1], RECIPE)
    with pytest.raises(LinftError, match="diverged; use a smaller learning rate"):
        train_domains(model, domains, RECIPE.replace(learning_rate=1e30, steps=4))
