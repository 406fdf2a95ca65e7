"""Predictions from draws of images: the training of the linearized network on what a run with augmentation meets."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from replayed import CE, DECAY, SE, assert_same, values

import linft
from linft import predict
from linft.core.draws import Draws
from linft.core.errors import LinftError
from linft.core.order import Order
from linft.predict.tangent import load, save

THREE_EPOCHS = 6  # of two batches of 4 among 10 images, of which two are left out
RECIPES = {
    "crops and flips, decay": CE.replace(augmentation="crop_flip", **DECAY, steps=THREE_EPOCHS, seed=3),
    "mixup, smoothed": SE.replace(mixup=0.4, label_smoothing=0.1, steps=THREE_EPOCHS),
    "windows of a canvas, mixup, clipped": CE.replace(
        augmentation="short_side_crop_flip", mixup=1.0, clip_norm=0.3, steps=THREE_EPOCHS
    ),
}
FLIPS = CE.replace(augmentation="flip", steps=THREE_EPOCHS)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_of_as_many_epochs_as_draws_it_is_the_training_of_the_linearized_network(model, task, recipe):
    trained = linft.finetune(linft.linearize(model), task)(recipe)
    found = predict.dual(model, predict.augmented(model, task, recipe, 3))(recipe)
    assert_same(values(found), values(trained))


def test_so_are_all_that_replay(model, task):
    recipe = RECIPES["windows of a canvas, mixup, clipped"]
    draws = predict.augmented(model, task, recipe, 3)
    trained = values(linft.finetune(linft.linearize(model), task)(recipe))
    for kind in (predict.explicit, partial(predict.moving, anchors=1)):
        assert_same(values(kind(model, draws)(recipe)), trained)
    trained = values(linft.finetune(linft.linearize(model, at="features"), task)(recipe))
    assert_same(values(predict.feature_dual(model, draws)(recipe)), trained)


@pytest.mark.parametrize("recipe", [*RECIPES.values()][:2], ids=[*RECIPES][:2])
def test_a_longer_run_meets_the_same_draws_again(model, task, recipe):
    """Weights of the linearized network, trained by hand on the rows that the order names."""
    recipe = recipe.replace(steps=14)
    draws, batches = predict.augmented(model, task, recipe, 2), recipe.order(10)
    x, plain = model.preprocess(draws.x_train), model.preprocess(task.x_train)
    y = jnp.asarray((1 - recipe.label_smoothing) * draws.y_train + recipe.label_smoothing / 3)
    assert draws.draws is not None
    rows = draws.draws.rows(batches)
    np.testing.assert_array_equal(rows % 10, batches.batches())
    np.testing.assert_array_equal(rows[:4] // 10, np.repeat([0, 0, 1, 1], 4).reshape(4, 4))
    assert set(np.unique(rows[4:] // 10)) == {0, 1}

    def linear(w, images):
        outputs, moved = jax.jvp(
            lambda p: model.apply(p, images), (model.params,), (jax.tree.map(jnp.subtract, w, model.params),)
        )
        return outputs + moved

    def loss(w, batch):
        return of_logits(linear(w, x[batch]), y[batch])

    def of_logits(logits, targets):
        if recipe.loss == "squared_error":
            return 0.5 * ((logits - targets) ** 2).sum(1).mean()
        return optax.softmax_cross_entropy(logits, targets).mean()

    decay = optax.add_decayed_weights(recipe.weight_decay)
    chain, w = optax.chain(decay, optax.sgd(recipe.learning_rate, 0.9, nesterov=True)), model.params
    state, step = chain.init(w), jax.jit(jax.grad(loss))
    for batch in rows:
        updates, state = chain.update(step(w, batch), state, w)
        w = optax.apply_updates(w, updates)
    logits, found = linear(w, plain), predict.dual(model, draws)(recipe)
    np.testing.assert_allclose(found.train_loss[-1], of_logits(logits, np.eye(3)[task.y_train]), rtol=1e-9)
    np.testing.assert_allclose(found.train_accuracy[-1], (np.argmax(logits, 1) == task.y_train).mean())


def test_one_draw_of_nothing_random_is_the_image(model, task, tangent):
    draws = predict.augmented(model, task, CE, 1)
    assert_same(values(predict.dual(model, draws)(CE)), values(predict.dual(tangent)(CE)), 1e-12)


def test_with_a_weight_of_one_mixup_leaves_images_as_they_are(model, task):
    """Of a tiny α the weight is 0 or 1, and an image itself or its partner, with the label of either."""
    recipe = CE.replace(mixup=1e-4, batch_size=5)
    draws = predict.augmented(model, task, recipe, 4)
    met = set()
    for epoch in range(4):
        for step in (2 * epoch, 2 * epoch + 1):
            batch = recipe.order(10)(step)
            images = draws.x_train[10 * epoch + batch]
            (own,) = [rows for rows in (batch, batch[::-1]) if np.allclose(images, task.x_train[rows], atol=1e-9)]
            np.testing.assert_allclose(draws.y_train[10 * epoch + batch], np.eye(3)[task.y_train[own]], atol=1e-9)
            met.add(bool((own == batch).all()))
    assert met == {True, False}


def test_every_image_has_its_draws_though_a_short_batch_is_left_out(model, task):
    draws = predict.augmented(model, task, FLIPS, 3).x_train.reshape(3, 10, 8, 8)
    images = task.x_train.reshape(10, 8, 8)
    whole, mirrored = ((draws == of[None]).all((2, 3)) for of in (images, images[:, :, ::-1]))
    assert (whole | mirrored).all()
    assert whole.any(1).all() and mirrored.any(1).all()


def test_other_seeds_meet_the_same_draws_in_another_order(model, task):
    run = predict.dual(model, predict.augmented(model, task, FLIPS, 2))
    ours, other = run.many([FLIPS, FLIPS.replace(seed=1)])
    assert np.abs(ours.train_loss - other.train_loss)[1:].min() > 1e-4


def test_what_moves_does_not_vouch_for_other_draws(model, task):
    draws = predict.augmented(model, task, FLIPS, 2)
    found = predict.moving(model, draws, anchors=2).follow(FLIPS)
    assert found.trajectory.certificate is None and found.certificate.error is not None
    assert predict.moving(model, draws, anchors=2).many([FLIPS, FLIPS])[1].certificate is None


def test_a_file_keeps_what_its_images_are(model, task, tmp_path):
    draws = predict.augmented(model, task, FLIPS, 2)
    tangent = predict.tangent(model, draws)
    save(tmp_path / "tangent", tangent)
    found = load(tmp_path / "tangent")
    assert found.draws == tangent.draws == Draws(2, "flip", 0.0)
    assert_same(values(predict.dual(found)(FLIPS)), values(predict.dual(tangent)(FLIPS)), 0)


def test_the_edge_of_stability_is_that_of_the_draws(model, task, tangent):
    """Of twice the same images it is that of the images."""
    twice = predict.tangent(model, predict.augmented(model, task, CE, 2))
    ours, theirs = predict.stability(twice, CE), predict.stability(tangent, CE)
    np.testing.assert_allclose([ours.h, ours.worst_batch_h], [theirs.h, theirs.worst_batch_h], rtol=1e-9)


def test_rows_go_on_beyond_any_epoch():
    """The law of the order: of no steps none, and a longer run begins as a shorter one."""
    draws, order = Draws(2, "flip", 0.0), Order(n=5, batch_size=2, steps=11, seed=1)
    assert draws.rows(Order(n=5, batch_size=2, steps=0, seed=1)).shape == (0, 2)
    shorter = draws.rows(Order(n=5, batch_size=2, steps=7, seed=1))
    np.testing.assert_array_equal(draws.rows(order)[:7], shorter)


def test_says_how_a_recipe_is_predicted(model, task, tangent):
    with pytest.raises(LinftError, match=r"augmented images .*; predict from a few draws, predict.augmented\(…\), or"):
        predict.dual(tangent)(FLIPS)
    both = FLIPS.replace(optimizer="adam", mixup=0.2)
    assert predict.nearest(both, from_draws=True) == (FLIPS.replace(mixup=0.2), "dropped: optimizer=adam")


def test_refuses(model, task):
    draws = predict.augmented(model, task, FLIPS, 2)
    with pytest.raises(LinftError, match="draws is 0; it must be 1 or more"):
        predict.augmented(model, task, FLIPS, 0)
    other = r"the kernel is of draws by augmentation=flip, mixup=0, and the recipe has other ones; draw for the recipe"
    for recipe in (CE, FLIPS.replace(mixup=0.1), FLIPS.replace(augmentation="crop")):
        with pytest.raises(LinftError, match=other):
            predict.dual(model, draws)(recipe)
    whole = "draws of images are for predictions by replay of the recipe; pass the task itself"
    for refused in (
        lambda: predict.augmented(model, draws, FLIPS, 2),
        lambda: linft.finetune(model, draws)(FLIPS),
        lambda: predict.spectral(model, draws),
        lambda: predict.gradient_flow(model, draws),
        lambda: draws.few_shot(1),
    ):
        with pytest.raises(LinftError, match=whole):
            refused()
