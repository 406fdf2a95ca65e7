"""Reinitialising the last layer groups, so that only the lower ones are transferred."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from linft.core import trees
from linft.core.base import Model
from linft.core.constants import CONSTANTS
from linft.core.errors import LinftError
from linft.core.task import Task
from linft.models.modes import modes


def reinitialize(model: Model, groups: int, key: Array) -> Model:
    """The model with new random weights in its last `groups` layer groups; 1 is the head alone.

    Below the head, weights and batch norm statistics are drawn by the module's own initialisers. The
    head is drawn as by `with_head`, W ~ N(0, 0.01²) and b = 0, for as many classes as it has; another
    head can be given afterwards, and class means are dropped. Plested, Shen and Gedeon 2021 (section
    4.3, Tables 3 and 4) take 1 to 3 "layers" to be the head and the last blocks of Inception's C, as here;
    other groups are the model's with `replace(layer_groups=…)`.

    Args:
      groups: how many, counted from the head down.
      key: PRNG key.

    Raises:
      LinftError: fewer than 1 or more than there are; a model without the linen module that it came
        from, as a linearized one, or with other parameters than the module's.

    Example:
      >>> import jax, linft
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=2)
      >>> new = reinitialize(model, 2, jax.random.key(1))
      >>> [bool((new.params[g][b][c]["kernel"] == model.params[g][b][c]["kernel"]).all())
      ...  for g, b, c in [("stage2", "block0", "conv1"), ("stage3", "block0", "conv1")]]
      [True, False]
    """
    names = tuple(model.layer_groups)
    if not 1 <= groups <= len(names):
        raise LinftError(f"{groups} layer groups to reinitialise; {model.name} has {len(names)}: {', '.join(names)}")
    if CONSTANTS in model.batch_stats:
        raise LinftError(f"{model.name} has frozen weights; reinitialise the model that its adapters were added to")
    if model.module is None:
        raise LinftError(f"{model.name} has no linen module whose initialisers could draw its weights")
    below, head = jax.random.split(key)
    with_head = model.with_head(model.num_classes, head)
    if groups == 1:
        return with_head.replace(class_means=None)
    fresh = _draw(model, below)
    # The module's own head may have other classes, and no bias.
    drawn = trees.put(fresh["params"], model.head, trees.get(with_head.params, model.head))
    chosen = names[-groups:]
    return with_head.replace(
        params=_mixed(model, chosen, with_head.params, drawn),
        batch_stats=_mixed(model, chosen, model.batch_stats, fresh.get("batch_stats", {})),
        class_means=None,
    )


def with_new_layers(
    model: Model,
    task: Task,
    seed: int,
    groups: int = 1,
    head: Literal["normal", "probe", "zeros"] = "normal",
    head_scale: float = 0.01,
) -> Model:
    """The model as a run on a task starts with it: its last `groups` layer groups new, a head for the task's classes.

    Errors as of `reinitialize` and `Model.with_head`.

    Example:
      >>> import jax, linft
      >>> model, task = linft.models.create("cifar_resnet8", 3, jax.random.key(0), width=2), linft.load_task("digits")
      >>> with_new_layers(model, task, seed=0, groups=2).num_classes
      10
    """
    below, of_head = jax.random.split(jax.random.key(seed))
    if groups > 1:
        model = reinitialize(model, groups, below)
    return model.with_head(task.num_classes, of_head, head, head_scale, task=task)


def _draw(model: Model, key: Array) -> dict[str, trees.Tree]:
    """The variables of the model's module at new random weights."""
    assert model.module is not None
    module, arguments = modes(model.module)[0]
    x = jnp.zeros((1, *model.preprocessing.input_size))
    # Optimizing what draws the weights takes XLA's CPU compiler ten times longer than all the rest.
    compiler = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(lambda k, x: module.init(k, x, **dict(arguments)), compiler_options=compiler)(key, x)  # pyright: ignore


def _mixed(model: Model, chosen: tuple[str, ...], old: trees.Tree, fresh: trees.Tree) -> trees.Tree:
    """The leaves of the chosen layer groups from the fresh tree, the others from the old one."""
    if jax.tree.structure(old) != jax.tree.structure(fresh):
        raise LinftError(f"{model.name} has other parameters than its module; reinitialise the model it came from")
    labels = trees.labels(old, model.layer_groups)
    return jax.tree.map(lambda g, a, b: b.astype(a.dtype) if g in chosen else a, labels, old, fresh)
