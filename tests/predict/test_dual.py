"""What `dual` takes and refuses; that it is the training of the linearized network stands in test_runs.py."""

import numpy as np
import pytest
from narrow import small_resnet
from replayed import CE, DECAY, RECIPES, SE, assert_same, values

import linft
from linft import predict
from linft.core.errors import LinftError
from linft.core.layer_settings import LayerSettings
from linft.core.recipe import Recipe
from linft.training import optimizer


def test_of_no_steps_the_start_is_told(tangent):
    start, run = predict.dual(tangent)(CE.replace(steps=0)), predict.dual(tangent)(CE)
    np.testing.assert_array_equal(start.steps, [0])
    assert_same(values(start), {name: curve[:1] for name, curve in values(run).items()})


def test_a_model_and_its_task_are_as_their_tangent(model, task, tangent):
    recipe = SE.replace(steps=5)
    assert_same(values(predict.dual(model, task)(recipe)), values(predict.dual(tangent)(recipe)), 0)


UNPREDICTABLE = {
    "batch norm is in training mode, and the kernel's is frozen": {"batch_norm": "train"},
    "augmented images are not the images of the kernel": {"augmentation": "flip"},
    "Adam is not linear in the gradient": {"optimizer": "adam"},
}


def test_says_why_not_and_what_is_nearest(tangent):
    assert predict.why_not(CE) is None
    assert predict.nearest(CE) == (CE, "")
    for reason, settings in UNPREDICTABLE.items():
        recipe = CE.replace(**settings)
        assert predict.why_not(recipe) == reason
        ((name, value),) = settings.items()
        assert predict.nearest(recipe) == (CE, f"dropped: {name}={value}")
        with pytest.raises(LinftError, match=f"no kernel predicts this recipe: {reason}; "):
            predict.dual(tangent).many([CE, recipe])
    both = CE.replace(optimizer="adam", augmentation="flip")
    assert (
        predict.why_not(both) == "Adam is not linear in the gradient; augmented images are not the images of the kernel"
    )
    assert predict.nearest(both) == (CE, "dropped: optimizer=adam, augmentation=flip")


def test_the_clipped_recipe_clips(tangent):
    recipe = RECIPES["clipped"]
    clipped, free, never = (
        predict.dual(tangent)(recipe.replace(clip_norm=norm)).train_loss for norm in (recipe.clip_norm, None, 10.0)
    )
    assert np.abs(clipped - free).max() > 0.1
    np.testing.assert_allclose(never, free, rtol=1e-12)


def test_refuses(model, task, tangent):
    with pytest.raises(LinftError, match="a Tangent carries its task and kernel already; pass it alone"):
        predict.dual(tangent, task)
    with pytest.raises(LinftError, match="a Tangent carries its task and kernel already; pass it alone"):
        predict.dual(tangent, outputs="trace")
    with pytest.raises(LinftError, match="pass a model and a task, or a Tangent alone"):
        predict.dual(model)
    with pytest.raises(LinftError, match="decay_vectors=False needs groups split into kernels and vectors"):
        predict.dual(tangent)(CE.replace(**DECAY, decay_vectors=False))
    with pytest.raises(LinftError, match="the loss is not finite before the first step"):
        predict.dual(tangent.replace(logits_train=tangent.logits_train * np.nan))(CE)


def test_half_a_stage_at_another_rate():
    """One block of a stage low and held, the other not: the kernel's groups are those, and the runs agree."""
    task = linft.load_task("digits").subset(12, 6)
    model = small_resnet(10, blocks=(2,))
    base = Recipe(learning_rate=1e-3, batch_size=4, steps=5, l2sp=0.1, weight_decay=0.1)
    recipe = LayerSettings(low_rate=1e-4, low_groups=2, l2sp_lowest=3).apply(base, model.layer_groups)
    tangent = linft.predict.tangent(model, task, groups=optimizer.kernel_groups(model.layer_groups, recipe))
    cut = tuple(f"stage1.block{i}" for i in range(2))
    assert tangent.groups == ("stem", *cut, "head")
    expected, got = linft.finetune(linft.linearize(model), task)(recipe), linft.predict.dual(tangent)(recipe)
    np.testing.assert_allclose(got.train_loss, expected.train_loss, rtol=1e-4)
    squares = sum(got.distance[part] ** 2 for part in cut)
    np.testing.assert_allclose(squares**0.5, expected.distance["stage1"], rtol=1e-2)
