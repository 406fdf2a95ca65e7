"""The running averages of batch norm's statistics along a predicted path, with which real runs are evaluated.

In training mode step t normalises by the statistics s_t of its minibatch at the weights before it, and every norm
keeps  r_{t+1} = m r_t + (1 − m) s_t,  with a momentum m of its own, from the pretrained statistics r_0 on. Evaluation
mode takes r, which lags behind the weights. Here the weights go in straight lines between those predicted at some
steps, and the minibatches are the recipe's own: one forward pass a step, and none backward.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from linft.core import losses, trees
from linft.core.base import Model, RunningCurves
from linft.core.recipe import Recipe
from linft.core.trees import Tree
from linft.models.batch_norm import TrainingMode, over_parts, training_mode
from linft.predict.tangent import outputs_on


def running_averages(
    model: Model, recipe: Recipe, weights: Mapping[int, Tree], x: Float[Array, "n h w ch"], rows: Int[np.ndarray, "t b"]
) -> dict[int, Tree]:
    """The running averages after some steps; where the recipe has an average of weights, theirs.

    Args:
      model: the pretrained one, whose statistics the averages begin with.
      weights: by step, those that are known; of step 0 the pretrained ones.
      x: the images that steps take, preprocessed.
      rows: which of them each step takes.

    Raises:
      LinftError: a model without training mode; a batch that is no multiple of `recipe.bn_batch_size`.
    """
    train, key = training_mode(over_parts(model, recipe.bn_batch_size)), jax.random.key(recipe.seed)
    here, running = 0, model.batch_stats
    found, average = {0: running}, running
    for there in sorted({*weights} - {0}):
        for step in range(here, there):
            share, of_step = (step - here) / (there - here), jax.random.fold_in(key, step)
            running = _after(train)(weights[here], weights[there], share, running, x[rows[step]], of_step)
            average = trees.interpolated(average, running, 1 - recipe.ema)
        found[there], here = average, there
    return found


@lru_cache(maxsize=8)
def _after(train: TrainingMode) -> Callable[..., Tree]:
    """(weights, others, share between them, running averages, minibatch, key) -> the running averages after it."""

    @jax.jit
    def after(here: Tree, there: Tree, share: Any, running: Tree, x: Array, key: Array) -> Tree:
        return train(trees.interpolated(here, there, share), running, x, key)[1]

    return after


def running_curves(
    recipe: Recipe, networks: Mapping[int, Model], train: tuple[Array, Array], test: tuple[Array, Array]
) -> RunningCurves:
    """Losses and accuracies of networks in evaluation mode, by the step that each is of."""
    found: dict[str, list[float]] = {}
    for name, (images, labels) in (("train", train), ("test", test)):
        logits = [outputs_on(network, images) for network in networks.values()]
        found[f"{name}_loss"] = [float(losses.mean_loss(recipe.loss, of_one, labels)) for of_one in logits]
        found[f"{name}_accuracy"] = [float(losses.accuracy(of_one, labels)) for of_one in logits]
    return RunningCurves(steps=np.array([*networks]), **{name: np.array(values) for name, values in found.items()})
