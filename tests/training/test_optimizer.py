"""The optax chain of a recipe, held against torch's optimizers step by step."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linft.core import losses, trees
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.training import optimizer

TORCH = Path(__file__).parents[1] / "stored" / "torch_sgd.npz"
GROUPS = {"weights": ("dense/kernel",), "offset": ("dense/bias",)}

# The recipes that tests/stored/make_torch_sgd.py ran in torch.
HALVED = {"steps": 30, "batch_size": None, "schedule": "step", "drop_at": (0.5,), "drop_factor": 0.1}
DECAYED = Recipe(learning_rate=0.5, weight_decay=0.05, **HALVED)
RECIPES = {
    "nesterov": DECAYED,
    "heavy_ball": DECAYED.replace(nesterov=False),
    "plain": DECAYED.replace(nesterov=False, momentum=0.0),
    "groups": DECAYED.replace(rate_multipliers=(("offset", 0.5),), decay_groups=("weights",)),
    "pretrained": DECAYED.replace(weight_decay=0.0, l2sp=0.05),
    "adam": DECAYED.replace(optimizer="adam", learning_rate=0.05),
}


def train(recipe, params, gradient, groups=GROUPS, n=60):
    """Params before the first step and after each."""
    groups = optimizer.groups_for(recipe, groups)
    labels = trees.labels(params, groups)
    chain = optimizer.transform(optimizer.settings(recipe, tuple(groups), n), labels, params)

    @jax.jit
    def step(params, state):
        updates, state = chain.update(gradient(params), state, params)
        return optax.apply_updates(params, updates), state

    state, trajectory = chain.init(params), [params]
    for _ in range(recipe.num_steps(n)):
        params, state = step(params, state)
        trajectory.append(params)
    return trajectory


@pytest.mark.parametrize("name", RECIPES)
def test_equals_torch(x64, name):
    with np.load(TORCH) as file:
        x, y, expected = jnp.asarray(file["x"]), jnp.asarray(file["y"]), file[name]

    def loss(params):
        logits = x @ params["dense"]["kernel"] + params["dense"]["bias"][None, :]
        return losses.mean_loss("cross_entropy", logits, y)

    start = {"dense": {"kernel": jnp.asarray(expected[0, :16]), "bias": jnp.asarray(expected[0, 16])}}
    got = [np.vstack([p["dense"]["kernel"], p["dense"]["bias"]]) for p in train(RECIPES[name], start, jax.grad(loss))]
    np.testing.assert_allclose(np.stack(got), expected, rtol=0, atol=1e-12)


SHORT = Recipe(learning_rate=0.1, steps=3, batch_size=None)
START = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}


def ones(params):
    return jax.tree.map(jnp.ones_like, params)


def nothing(params):
    return jax.tree.map(jnp.zeros_like, params)


def test_a_frozen_group_neither_trains_nor_decays():
    last = train(SHORT.replace(frozen_groups=("offset",), weight_decay=0.5), START, ones)[-1]
    np.testing.assert_array_equal(last["dense"]["bias"], START["dense"]["bias"])
    assert (last["dense"]["kernel"] < 0.5).all()


def test_vectors_may_be_spared_from_decay():
    recipe = SHORT.replace(weight_decay=0.5, decay_vectors=False)
    last = train(recipe, START, nothing, groups={"dense": ("dense",)})[-1]
    np.testing.assert_array_equal(last["dense"]["bias"], START["dense"]["bias"])
    assert (last["dense"]["kernel"] < 1).all()


def test_decay_towards_the_pretrained_weights_leaves_them_alone():
    recipe = SHORT.replace(weight_decay=0.5, l2sp=0.5)
    jax.tree.map(np.testing.assert_array_equal, train(recipe, START, nothing)[-1], START)


def test_l2_sp_holds_transferred_groups_and_decays_new_ones():
    recipe = SHORT.replace(l2sp=0.5, l2sp_groups=("weights",), weight_decay=0.1, momentum=0.0, steps=1)
    last = train(recipe, START, nothing)[-1]
    np.testing.assert_array_equal(last["dense"]["kernel"], START["dense"]["kernel"])
    np.testing.assert_allclose(last["dense"]["bias"], 1 - 0.1 * 0.1, rtol=1e-6)


def decoupled(recipe, w, gradient, strength, pull, steps, n=60):
    """Equations 1 and 2 of Li and others 2020 as they stand, in w itself: the gradient is taken ahead of w."""
    start, v, at = w, 0 * w, []
    for rate in recipe.rates(n):
        ahead = w - recipe.momentum * v if recipe.nesterov else w
        at.append(ahead)
        v = recipe.momentum * v + rate * gradient(ahead)
        w = w - v - rate * strength * (w - pull * start)
    return np.array([*at, w - recipe.momentum * v if recipe.nesterov else w])


DECOUPLED = DECAYED.replace(convention="decoupled", learning_rate=0.05)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("decay", [{"weight_decay": 0.1}, {"l2sp": 0.1}, {"weight_decay": 0.0}])
def test_decoupled_convention_is_that_of_the_paper(x64, nesterov, decay):
    recipe = DECOUPLED.replace(nesterov=nesterov, **{"weight_decay": 0.0, **decay})
    a = np.random.default_rng(0).normal(size=(6, 4))
    hessian, w = a.T @ a, np.arange(1.0, 5.0)

    def gradient(params):
        return {"dense": {"kernel": jnp.asarray(hessian) @ params["dense"]["kernel"], "bias": jnp.zeros(1)}}

    start = {"dense": {"kernel": jnp.asarray(w), "bias": jnp.zeros(1)}}
    got = np.stack([p["dense"]["kernel"] for p in train(recipe, start, gradient)])
    expected = decoupled(recipe, w, lambda at: hessian @ at, *recipe.decay("weights"), steps=30)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


ADAM = DECAYED.replace(optimizer="adam", convention="decoupled", learning_rate=0.05, momentum=0.8)


@pytest.mark.parametrize("pull", [0.0, 1.0])
def test_adam_with_decoupled_decay_is_adamw(x64, pull):
    """In w, or with decay towards the start in w − start."""
    recipe = ADAM.replace(**({"weight_decay": 0.0, "l2sp": 0.3} if pull else {"weight_decay": 0.3}))
    a = np.random.default_rng(0).normal(size=(6, 4))
    hessian, start = jnp.asarray(a.T @ a), jnp.arange(1.0, 5.0)
    reference = optax.adamw(lambda step: jnp.asarray(recipe.rates(60))[step], b1=0.8, b2=0.999, weight_decay=0.3)
    moved, expected = (1 - pull) * start, [start]
    state = reference.init(moved)
    for _ in range(30):
        updates, state = reference.update(hessian @ expected[-1], state, moved)
        moved = optax.apply_updates(moved, updates)
        expected.append(moved + pull * start)

    def gradient(params):
        return {"dense": {"kernel": hessian @ params["dense"]["kernel"], "bias": jnp.zeros(1)}}

    params = {"dense": {"kernel": start, "bias": jnp.zeros(1)}}
    got = np.stack([p["dense"]["kernel"] for p in train(recipe, params, gradient)])
    np.testing.assert_allclose(got, np.stack(expected), rtol=1e-12)
    coupled = train(recipe.replace(convention="coupled"), params, gradient)
    assert np.abs(coupled[-1]["dense"]["kernel"] - got[-1]).max() > 1e-3


def test_adam_multiplies_rate_and_decoupled_decay_by_group():
    recipe = ADAM.replace(steps=1, schedule="constant", rate_multipliers=(("offset", 0.5),))
    last = train(recipe, START, ones)[-1]
    np.testing.assert_allclose(last["dense"]["kernel"], 1 - 0.05 * (1 + 0.05), rtol=1e-5)  # its first step is a sign
    np.testing.assert_allclose(last["dense"]["bias"], 1 - 0.5 * 0.05 * (1 + 0.05), rtol=1e-5)


def test_conventions_agree_until_the_rate_drops_and_without_decay(x64):
    start = jax.tree.map(lambda w: w.astype(float), START)

    def weights(**changes):
        return np.stack(
            [p["dense"]["kernel"] for p in train(DECAYED.replace(weight_decay=0.0, **changes), start, cubic)]
        )

    def cubic(params):
        return jax.tree.map(lambda w: 0.1 * w**3, params)

    coupled, apart = weights(), weights(convention="decoupled")
    np.testing.assert_allclose(apart[:16], coupled[:16], rtol=1e-12)  # the rate drops after 15 steps
    assert (abs(apart[17:] - coupled[17:]) > 1e-3).all()


def test_the_gradient_is_clipped_to_its_norm():
    before, after = train(SHORT.replace(clip_norm=0.3, momentum=0.0, steps=1), START, ones)
    squares = trees.dots_by_group(*[trees.subtract(after, before)] * 2, trees.labels(START, GROUPS), GROUPS)
    np.testing.assert_allclose(np.sqrt(sum(squares.values())), 0.1 * 0.3, rtol=1e-6)


@pytest.mark.parametrize("convention", ["coupled", "decoupled"])
@pytest.mark.parametrize("frozen", [{"frozen_groups": ("off*",)}, {"rate_multipliers": (("offset", 0.0),)}])
def test_only_what_trains_counts_in_the_clipped_norm(frozen, convention):
    """As optax on the parameters that train alone, though the others' gradient is far larger."""
    recipe = SHORT.replace(clip_norm=0.3, convention=convention, **frozen)
    last = train(recipe, START, lambda p: {"dense": {"kernel": p["dense"]["kernel"], "bias": jnp.full(2, 1e3)}})[-1]
    alone = optax.chain(optax.clip_by_global_norm(0.3), optax.sgd(0.1, momentum=0.9, nesterov=True))
    kernel = START["dense"]["kernel"]
    state = alone.init(kernel)
    for _ in range(3):
        updates, state = alone.update(kernel, state)
        kernel = optax.apply_updates(kernel, updates)
    np.testing.assert_allclose(last["dense"]["kernel"], kernel, rtol=1e-6)
    np.testing.assert_array_equal(last["dense"]["bias"], START["dense"]["bias"])


LAYERS = {"stem": ("stem",), **{f"stage1.{i}": (f"stage1/{i}",) for i in "abc"}, "head": ("head",)}


@pytest.mark.parametrize(
    ("frozen", "expected"),
    [
        ([()], ["stem", "stage1", "head"]),
        ([("stem", "stage1")], ["stem", "stage1", "head"]),
        ([("stem", "stage1.a")], ["stem", "stage1.a", "stage1.b+c", "head"]),
        ([("stage1.b",)], ["stem", "stage1.a", "stage1.b", "stage1.c", "head"]),
        ([("stage1.[ab]",), ("stage1.a",)], ["stem", "stage1.a", "stage1.b", "stage1.c", "head"]),
        ([("stage1.*",)], ["stem", "stage1.a+b+c", "head"]),  # named by what the pattern names
    ],
)
def test_a_kernel_has_no_more_groups_than_its_recipes_need(frozen, expected):
    recipes = [SHORT.replace(frozen_groups=groups) for groups in frozen]
    found = optimizer.kernel_groups(LAYERS, *recipes)
    assert list(found) == expected
    assert [path for paths in found.values() for path in paths] == [path for paths in LAYERS.values() for path in paths]
    for recipe in recipes:
        fine, joined = (optimizer.settings(recipe, tuple(names), 60).multipliers for names in (LAYERS, found))
        assert {p: fine[g] for g in LAYERS for p in LAYERS[g]} == {p: joined[g] for g in found for p in found[g]}
        split = optimizer.kernel_groups(LAYERS, recipe.replace(weight_decay=0.1, decay_vectors=False))
        assert len(split) == 2 * len(optimizer.kernel_groups(LAYERS, recipe))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (("stem", "stage1", "head"), "no layer group matches 'stage1.a'; .* has groups=optimizer.kernel_groups"),
        (("stem", "stage1.a+b", "stage1.c", "head"), r"several settings for the layer groups of stage1.a\+b; build"),
    ],
)
def test_a_kernel_of_groups_that_a_recipe_tells_apart_is_refused(groups, message):
    with pytest.raises(LinftError, match=message):
        optimizer.settings(SHORT.replace(frozen_groups=("stage1.a",)), groups, 60)


def test_groups_are_split_only_where_vectors_do_not_decay():
    assert list(optimizer.groups_for(SHORT, GROUPS)) == ["weights", "offset"]
    assert list(optimizer.groups_for(SHORT.replace(decay_vectors=False), GROUPS)) == ["weights", "offset"]
    split = optimizer.groups_for(SHORT.replace(decay_vectors=False, weight_decay=0.1), GROUPS)
    assert list(split) == ["weights", "weights/vectors", "offset", "offset/vectors"]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (SHORT.replace(frozen_groups=("stage9",)), "no layer group matches 'stage9'; this model has weights, offset"),
        (SHORT.replace(weight_decay=0.1, decay_vectors=False), "needs groups split into kernels and vectors"),
    ],
)
def test_refuses(recipe, message):
    with pytest.raises(LinftError, match=message):
        optimizer.settings(recipe, tuple(GROUPS), 10)
