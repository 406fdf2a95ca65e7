"""One network on many source tasks, with parameters of their own for each, and the models it falls apart into.

Deshpande and others 2021, section 4.1 and Table 2. `shared`: all weights are common to all domains.
`multi-bn`: every domain has its own batch norms. `adapter`: beside these, a 1×1 convolution A_d in
parallel to every larger convolution (Rebuffi and others 2017), which folds into the centre of its kernel:
W ∗ x + A_d x = (W + A_d δ_centre) ∗ x. So a domain of any variant is a plain model of the same architecture.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from linft.core import trees
from linft.core.base import Model
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.core.trees import Tree
from linft.data.stream import Batch
from linft.models.architectures.layers import NORM_NAME
from linft.runtime.progress import Count
from linft.training.step import State, begin_training, steps_per_call

DomainSharing = Literal["shared", "multi-bn", "adapter"]
ADAPTER = "adapter"
OTHER_HEADS = -1e9  # added to the logits of other domains; finite, so that 0 times it is 0


def train_domains(
    model: Model,
    tasks: Sequence[Task],
    recipe: Recipe,
    sharing: DomainSharing = "multi-bn",
    progress: Count | None = None,
) -> list[Model]:
    """Train one network on all tasks at once; the model of each task, in their order.

    Every step takes `recipe.batch_size` images of each task, so that small tasks count as much as
    large ones; the loss is the mean over all, each over its own classes. Weights start at the
    model's; the heads are new.

    Raises:
      LinftError: fewer than two tasks; a recipe without a number of steps, with frozen batch norm, with
        other decay for vectors or with smoothed labels; a training that diverged.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(20, 10)
      >>> negative = task.replace(x_train=255 - task.x_train)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=2)
      >>> recipe = linft.Recipe(steps=1, batch_size=5, batch_norm="train")
      >>> [domain.num_classes for domain in train_domains(model, [task, negative], recipe)]
      [10, 10]
    """
    if len(tasks) < 2:
        raise LinftError("training on many domains needs two tasks or more")
    if recipe.steps is None or recipe.batch_size is None or recipe.batch_norm != "train" or not recipe.decay_vectors:
        raise LinftError(
            "training on many domains needs steps, a batch size (of each domain), "
            'batch_norm="train" and the same decay for all parameters'
        )
    if recipe.label_smoothing > 0:  # over the classes of other domains too, whose logits are masked
        raise LinftError("training on many domains takes no label_smoothing, which would reach the other domains")
    offsets = np.cumsum([0, *(task.num_classes for task in tasks)])
    joint = _joint(model.with_head(int(offsets[-1]), jax.random.key(recipe.seed)), offsets, sharing)
    images = np.concatenate([model.preprocessing.resize(task.x_train) for task in tasks])
    labels = np.concatenate([t.y_train + o for t, o in zip(tasks, offsets[:-1], strict=True)])
    held = jax.tree.map(jnp.asarray, Batch(np.arange(len(images)), images, None, labels))
    batches = _balanced(tasks, recipe)
    state, advance = begin_training(joint, recipe, len(images))
    each = steps_per_call()
    for done in range(0, len(batches), each):
        batch = Batch(batches[done : done + each])
        state, _ = advance(state, batch, held)
        if progress is not None:
            progress(min(done + each, len(batches)), len(batches))
    if not bool(trees.finite(state.params)):
        raise LinftError("the training diverged; use a smaller learning rate")
    return [_domain(model, state, d, offsets, sharing) for d in range(len(tasks))]


def _balanced(tasks: Sequence[Task], recipe: Recipe) -> Int[np.ndarray, "steps batch"]:
    """As many images of each task in every step, domain after domain; each task by its own epochs."""
    smallest = min(len(task.y_train) for task in tasks)
    each = recipe.replace(batch_size=recipe.batch_size_for(smallest))
    starts = np.cumsum([0, *(len(task.y_train) for task in tasks[:-1])])
    parts = [each.batches(len(task.y_train)) + start for task, start in zip(tasks, starts, strict=True)]
    return np.concatenate(parts, axis=1)


def _joint(model: Model, offsets: Int[np.ndarray, "d1"], sharing: DomainSharing) -> Model:
    """The model whose training mode takes a batch of equal parts, one for each domain, and masks other heads.

    Parameters that a domain has for itself carry a leading axis of domains; the others have none.
    """
    domains = len(offsets) - 1
    others = np.full((domains, offsets[-1]), OTHER_HEADS, np.float32)
    for d in range(domains):
        others[d, offsets[d] : offsets[d + 1]] = 0
    train = model.forward_train
    if train is None:
        raise LinftError(f"{model.name} has no training mode, which training on many domains needs")

    if sharing == "shared":

        def forward_train(params: Tree, batch_stats: Tree, x: Array, key: Array) -> tuple[Array, Tree]:
            logits, batch_stats = train(params, batch_stats, x, key)
            return logits + jnp.repeat(others, len(x) // domains, axis=0), batch_stats

        return model.replace(forward_train=forward_train)

    def of_domain(params: Tree, batch_stats: Tree, x: Array, key: Array) -> tuple[Array, Tree]:
        with nn.intercept_methods(_adapted):
            return train(params, batch_stats, x, key)

    def forward_train(params: Tree, batch_stats: Tree, x: Array, key: Array) -> tuple[Array, Tree]:
        parts = x.reshape(domains, -1, *x.shape[1:])
        axes = jax.tree_util.tree_map_with_path(lambda p, _: 0 if _is_own(p) else None, params)
        over_domains = jax.vmap(of_domain, in_axes=(axes, 0, 0, 0))
        logits, batch_stats = over_domains(params, batch_stats, parts, jax.random.split(key, domains))
        return (logits + others[:, None, :]).reshape(len(x), -1), batch_stats

    def many(leaf: Array) -> Array:
        return jnp.repeat(leaf[None], domains, axis=0)

    params = _with_adapters(model.params) if sharing == "adapter" else model.params
    params = jax.tree_util.tree_map_with_path(lambda p, leaf: many(leaf) if _is_own(p) else leaf, params)
    return model.replace(params=params, batch_stats=jax.tree.map(many, model.batch_stats), forward_train=forward_train)


def _is_own(path: tuple) -> bool:
    """Whether a domain has this parameter for itself: those of norms, and adapters."""
    layer, _, name = trees.path_of(path).rpartition("/")
    return name == ADAPTER or NORM_NAME.search(layer) is not None


def _with_adapters(params: Tree) -> Tree:
    """An adapter of zeros [in out] beside every kernel of a convolution larger than 1×1."""
    added = {name: _with_adapters(sub) if isinstance(sub, Mapping) else sub for name, sub in params.items()}
    kernel = params.get("kernel")
    if getattr(kernel, "ndim", 0) == 4 and kernel.shape[:2] != (1, 1):
        added[ADAPTER] = jnp.zeros(kernel.shape[2:], kernel.dtype)
    return added


def _adapted(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
    """A convolution plus its adapter, where it has one."""
    module = context.module
    if not (isinstance(module, nn.Conv) and module.has_variable("params", ADAPTER)):
        return call(*args, **kwargs)
    size: Any = module.kernel_size
    centred = tuple((s // 2, s // 2) for s in size)
    if module.padding != centred or module.feature_group_count != 1 or not all(s % 2 for s in size):
        raise LinftError(f"the convolution {'/'.join(module.path)} has no centre that an adapter could be parallel to")
    down, across = module.strides if isinstance(module.strides, tuple) else (module.strides or 1,) * 2  # pyright: ignore
    return call(*args, **kwargs) + args[0][:, ::down, ::across] @ module.get_variable("params", ADAPTER)


def _folded(params: Tree) -> Tree:
    """Adapters added to the centre of their kernels."""
    folded = {name: _folded(sub) if isinstance(sub, Mapping) else sub for name, sub in params.items()}
    if ADAPTER in folded:
        height, width = folded["kernel"].shape[:2]
        folded["kernel"] = folded["kernel"].at[height // 2, width // 2].add(folded.pop(ADAPTER))
    return folded


def _domain(model: Model, state: State, d: int, offsets: Int[np.ndarray, "d1"], sharing: DomainSharing) -> Model:
    """The plain model of one domain: its own parameters, adapters folded, its columns of the head."""
    params, batch_stats = state.measured
    if sharing != "shared":
        params = jax.tree_util.tree_map_with_path(lambda p, leaf: leaf[d] if _is_own(p) else leaf, params)
        params, batch_stats = _folded(params), jax.tree.map(lambda leaf: leaf[d], batch_stats)
    columns = slice(int(offsets[d]), int(offsets[d + 1]))
    head = {name: leaf[..., columns] for name, leaf in trees.get(params, model.head).items()}
    return model.trained(trees.put(params, model.head, head), batch_stats)
