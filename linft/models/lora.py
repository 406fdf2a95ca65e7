"""LoRA: kernels stay as they were pretrained, and what trains beside the head is added to them in low rank."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from linft.core import trees
from linft.core.base import Model
from linft.core.constants import CONSTANTS, constants_of, statistics_of
from linft.core.errors import LinftError
from linft.core.forward_pass import Forward
from linft.core.recipe import matches
from linft.core.trees import Tree
from linft.models.batch_norm import TrainingMode

A, B = "lora_A", "lora_B"
"""Names of a layer's adapter in params, in place of its kernel."""
SUFFIX = " (LoRA)"


@dataclass(frozen=True)
class Adapted:
    """`forward` of a model with adapters; `batch_stats` holds the frozen weights and α/r among its constants."""

    base: Forward
    layer_groups: tuple[tuple[str, tuple[str, ...]], ...]
    """Of the plain model; that with adapters has those of them that train."""

    def __call__(self, params: Tree, batch_stats: Tree, x: Array) -> tuple[Array, Array]:
        return self.base(_folded(params, batch_stats), statistics_of(batch_stats), x)


@dataclass(frozen=True)
class AdaptedTraining:
    """`forward_train` of a model with adapters: of its norms the statistics alone move."""

    base: TrainingMode

    def __call__(self, params: Tree, batch_stats: Tree, x: Array, key: Array) -> tuple[Array, Tree]:
        logits, changed = self.base(_folded(params, batch_stats), statistics_of(batch_stats), x, key)
        return logits, {**changed, **constants_of(batch_stats)}


def lora(model: Model, rank: int = 8, alpha: float = 16.0, layers: Sequence[str] = ("*",), *, key: Array) -> Model:
    """The model with adapters of low rank: its weights are frozen, and adapters and head are all that trains.

        W' = W + (α/r) A B,    A [i r] ~ U(−1/√i, 1/√i),    B [r o] = 0

    W [i o] is the kernel of a Dense layer, or that of a convolution, [h w c o], as a matrix of i = h·w·c rows: A is
    then a convolution of the same size to r channels, and B one of 1×1 above it. So it begins as the model. `params`
    holds adapters and head alone, and what speaks of layer groups (decay, rates, freezing, reports) of those. Biases
    and norms are frozen; norms in training mode keep running statistics. Hu and others 2021 ("LoRA: Low-Rank
    Adaptation of Large Language Models"), with the shapes and the random A of PEFT. `merged` gives a plain model back.

    Its kernel at the start is that of B and of the head, ∂f/∂A being zero; with `predict.moving` A moves too.

    Args:
      rank: r, at most the smaller side of W.
      alpha: α; the adapters count α/r times.
      layers: patterns of layer groups whose kernels are adapted, as recipes have them; the head is none of them.
      key: PRNG key of A.

    Raises:
      LinftError: a rank below 1, or above a kernel's smaller side; no kernel to adapt; a model with adapters.

    Example:
      >>> import jax, linft
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=4)
      >>> adapted = lora(model, rank=2, layers=("stage2", "stage3"), key=jax.random.key(1))
      >>> {name: leaf.shape for name, leaf in adapted.params["stage2"]["block0"]["conv1"].items()}
      {'lora_A': (3, 3, 4, 2), 'lora_B': (2, 8)}
      >>> from linft.core import trees
      >>> trees.count(adapted.params), trees.count(model.params)
      (914, 5006)
    """
    if CONSTANTS in model.batch_stats:
        raise LinftError(f"{model.name} has adapters already; give the model that they were added to, or merged(model)")
    if rank < 1:
        raise LinftError(f"rank is {rank}; it must be 1 or more")
    if not (math.isfinite(alpha) and alpha > 0):
        raise LinftError(f"alpha is {alpha}; it must be above 0")
    chosen = _kernels(model, tuple(layers))
    ranks = {path: min(math.prod(kernel.shape[:-1]), kernel.shape[-1]) for path, kernel in chosen.items()}
    least = min(ranks, key=lambda path: ranks[path])
    if rank > ranks[least]:
        raise LinftError(
            f"rank is {rank}, and the kernel of {least} has one of {ranks[least]} at most; "
            "choose a smaller one, or other layers"
        )
    keys = jax.random.split(key, len(chosen))
    adapters = {path: _adapter(kernel, rank, k) for (path, kernel), k in zip(chosen.items(), keys, strict=True)}
    held = {"weights": _pruned(model.params, model.head), "scale": jnp.asarray(alpha / rank, model.dtype)}
    about = {"rank": rank, "alpha": alpha, "layers": list(layers)}
    params = _trained(model.params, {**adapters, model.head: trees.get(model.params, model.head)})
    trained = set(jax.tree.leaves(trees.labels(params, model.layer_groups)))
    groups = tuple((group, tuple(prefixes)) for group, prefixes in model.layer_groups.items())
    return model.replace(
        name=model.name + SUFFIX,
        params=params,
        batch_stats={**model.batch_stats, CONSTANTS: held},
        forward=Adapted(model.forward, groups),
        forward_train=None if model.forward_train is None else AdaptedTraining(model.forward_train),
        layer_groups={group: prefixes for group, prefixes in groups if group in trained},
        architecture=None if model.architecture is None else {**model.architecture, "lora": about},
    )


def has_adapters(model: Model) -> bool:
    """Whether `merged` can fold adapters in."""
    return isinstance(model.forward, Adapted)


def merged(model: Model) -> Model:
    """The plain model with its adapters folded in, W + (α/r) A B, which is saved, loaded and fine-tuned as any.

    Raises:
      LinftError: a model without adapters, or a linearization of one with them.

    Example:
      >>> import jax, jax.numpy as jnp, linft
      >>> model, key = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=4), jax.random.key(1)
      >>> plain, x = merged(lora(model, rank=2, key=key)), jnp.ones((2, 32, 32, 3))
      >>> plain.name, bool((plain.apply(plain.params, x) == model.apply(model.params, x)).all())
      ('cifar_resnet8', True)
    """
    if not isinstance(model.forward, Adapted):
        raise LinftError(f"{model.name} has no adapters to fold in; linft.lora(model, …) adds them")
    train = model.forward_train
    about = None if model.architecture is None else {k: v for k, v in model.architecture.items() if k != "lora"}
    return model.replace(
        name=model.name.removesuffix(SUFFIX),
        params=_folded(model.params, model.batch_stats),
        batch_stats=statistics_of(model.batch_stats),
        forward=model.forward.base,
        forward_train=train.base if isinstance(train, AdaptedTraining) else None,
        layer_groups=dict(model.forward.layer_groups),
        architecture=about,
    )


def without_adapters(model: Model) -> Model:
    """`merged` of a model with adapters, any other as it is."""
    return merged(model) if has_adapters(model) else model


def scale(batch_stats: Tree) -> Array:
    """α/r."""
    return batch_stats[CONSTANTS]["scale"]


def still(params: Tree) -> frozenset[str]:
    """Paths of every A whose B is zero, so that nothing depends on it to first order."""
    leaves = {trees.path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    zero = [path for path, leaf in leaves.items() if path.endswith("/" + B) and not leaf.any()]
    return frozenset(path.removesuffix(B) + A for path in zero)


def _kernels(model: Model, layers: tuple[str, ...]) -> dict[str, Any]:
    """By path of a layer below the head in layer groups of these patterns, its kernel."""
    labels = trees.labels(model.params, model.layer_groups)
    kernels = {}
    for (path, leaf), group in zip(jax.tree.leaves_with_path(model.params), jax.tree.leaves(labels), strict=True):
        layer, _, name = trees.path_of(path).rpartition("/")
        if name == "kernel" and leaf.ndim > 1 and layer != model.head:
            kernels[layer] = leaf, group
    for pattern in layers:
        if not any(matches(group, (pattern,)) for _, group in kernels.values()):
            groups = ", ".join(dict.fromkeys(group for _, group in kernels.values())) or "none"
            raise LinftError(f"{pattern!r} names no layer group with kernels to adapt; {model.name} has {groups}")
    if not layers:
        raise LinftError('layers is empty; name layer groups to adapt, such as ("*",)')
    return {path: leaf for path, (leaf, group) in kernels.items() if matches(group, layers)}


def _adapter(kernel: Any, rank: int, key: Array) -> dict[str, Array]:
    *rows, columns = kernel.shape
    bound = 1 / math.sqrt(math.prod(rows))
    a = jax.random.uniform(key, (*rows, rank), kernel.dtype, -bound, bound)
    return {A: a, B: jnp.zeros((rank, columns), kernel.dtype)}


def _trained(tree: Tree, own: Mapping[str, Tree], prefix: str = "") -> dict[str, Any]:
    """A tree of some subtrees, by their paths, in the places of those of another."""
    found = {}
    for name, value in tree.items():
        path = prefix + name
        if path in own:
            found[name] = own[path]
        elif isinstance(value, Mapping) and (below := _trained(value, own, path + "/")):
            found[name] = below
    return found


def _pruned(tree: Tree, path: str) -> dict[str, Any]:
    """The tree without what is at a path."""
    name, _, rest = path.partition("/")
    others = {k: v for k, v in tree.items() if k != name}
    return {**others, name: _pruned(tree[name], rest)} if rest else others


def _folded(params: Tree, batch_stats: Tree) -> Tree:
    """All weights of the network."""
    held, dtype = batch_stats[CONSTANTS], jax.tree.leaves(params)[0].dtype  # a layer may compute in less
    weights, counts = jax.tree.map(lambda leaf: leaf.astype(dtype), (held["weights"], scale(batch_stats)))

    def of(frozen: Tree, own: Tree) -> Tree:
        if A in own:
            return {**frozen, "kernel": frozen["kernel"] + counts * jnp.tensordot(own[A], own[B], 1)}
        both = {name: of(frozen[name], own[name]) for name in own if name in frozen}
        return {**frozen, **own, **both}

    return of(weights, params)
