"""Networks with adapters of low rank are predicted, by every kind of prediction, as others are."""

from collections.abc import Callable
from functools import partial

import jax
import judges
import numpy as np
import pytest
from replayed import ADAM, CE, FULL_BATCH, RECIPES, assert_same, values, with_all_anchors

import linft
from linft import predict
from linft.core.base import Run
from linft.core.recipe import Recipe

RECORD = 10
ADAPTED = RECIPES["all at once"].replace(decay_vectors=True, frozen_groups=(), rate_multipliers=(("conv", 0.3),))
ADAMW = ADAM["AdamW, all at once"].replace(decay_vectors=True, frozen_groups=())


@pytest.fixture(scope="module")
def adapted(model) -> linft.Model:
    return linft.lora(model, rank=2, alpha=4.0, layers=("conv", "hidden"), key=jax.random.key(3))


def linear(model: linft.Model, task: linft.Task, of: judges.Explicit, recipe: Recipe) -> judges.Network:
    return judges.linear(of)


def linear_features(model: linft.Model, task: linft.Task, of: judges.Explicit, recipe: Recipe) -> judges.Network:
    return judges.linear_features(model, task)


def moved(model: linft.Model, task: linft.Task, of: judges.Explicit, recipe: Recipe) -> judges.Network:
    return judges.moving(partial(judges.along, judges.as_it_is(model, task)), of, recipe, 2)


def finetuned(model: linft.Model, task: linft.Task, **how) -> Run:
    return linft.finetune(linft.linearize(model), task, **how)


def relinearized(model: linft.Model, task: linft.Task, **how) -> Run:
    return predict.relinearized(linft.linearize(model), task, after=17, **how)


def moving(model: linft.Model, task: linft.Task, **how) -> Run:
    return with_all_anchors(predict.moving(model, task, anchors=2, **how))


WAYS: dict[str, tuple[Callable[..., Run], Callable[..., judges.Network], Recipe]] = {
    "finetune, linearized": (finetuned, linear, ADAMW),
    "dual": (predict.dual, linear, ADAPTED),
    "feature_dual": (predict.feature_dual, linear_features, ADAPTED),
    "explicit": (predict.explicit, linear, ADAMW),
    "explicit, features": (partial(predict.explicit, at="features", rank=None), linear_features, ADAMW),
    "moving": (moving, moved, ADAPTED),
    "relinearized, of a linear network": (relinearized, linear, ADAPTED),
    "spectral": (predict.spectral, linear, FULL_BATCH["Nesterov, decay to zero"]),
}


@pytest.mark.parametrize("name", WAYS)
def test_is_what_its_judge_says(adapted, task, name):
    make, judge, recipe = WAYS[name]
    of = judges.explicit(adapted, task)
    expected = judges.sgd(judge(adapted, task, of, recipe), of, recipe, np.arange(0, recipe.steps + 1, RECORD))
    found = make(adapted, task, record_every=RECORD)(recipe)
    assert_same(values(found), expected, 1e-6 if name == "spectral" else 1e-9)


def test_a_moves_where_the_kernel_does(adapted, task):
    """To first order only B does, since A counts for nothing while B is zero."""

    def far(trained: linft.Model) -> float:
        return float(abs(trained.params["conv"]["lora_A"] - adapted.params["conv"]["lora_A"]).max())

    *_, followed = predict.moving(adapted, task, anchors=2).stages(CE)
    assert far(followed.network(CE.steps)) > 1e-3
    assert far(linft.finetune(linft.linearize(adapted), task)(CE).model) == 0
