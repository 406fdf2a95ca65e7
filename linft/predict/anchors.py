"""Jacobians of a network at several weights, and the kernels among them: what a path is made of."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linft.core import trees
from linft.core.base import BatchNorm, Kernel, Model, Tangent
from linft.core.draws import Draws
from linft.core.forward_pass import Forward, equal_size
from linft.core.trees import Tree
from linft.ntk import engine
from linft.ntk.empirical import empirical_ntk
from linft.ntk.engine import Backend, How
from linft.ntk.layerwise.follow import follow
from linft.ntk.layerwise.gram import transposed
from linft.ntk.rows import Rows
from linft.ntk.tiled import memory
from linft.ntk.tiled.tiles import counter, refuse_not_finite
from linft.predict.feature_tangent import under
from linft.predict.path import Path, known
from linft.predict.span import At, BundleItems
from linft.predict.tangent import MIXING_IMAGES, mixing, outputs_on, pushed
from linft.runtime.progress import Count


@dataclass(frozen=True)
class Subject:
    """A network, what is asked of it, and how its Jacobians are computed."""

    at: Callable[[Tree], Model]
    """As it is linearized at some weights."""
    directions: Float[Array, "d r"] | None
    """U, where it is the features along U that are linearized."""
    params: Tree
    """w0."""
    images: tuple[Array, Array]
    """Training and test images, preprocessed."""
    targets: tuple[Array, Array]
    labels: Tree
    """The group of every parameter."""
    groups: tuple[str, ...]
    num_outputs: int
    """That are linearized."""
    how: How
    batch_norm: BatchNorm = "frozen"
    """Of what is linearized."""
    draws: Draws | None = None
    """As of a Task."""

    @property
    def as_they_are(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Training and test images where they are no draws, with their labels."""
        (x_train, x_test), (y_train, y_test) = self.images, self.targets
        if self.draws is None:
            return (x_train, y_train), (x_test, y_test)
        n = len(x_train) // self.draws.count
        return (x_test[:n], y_test[:n]), (x_test[n:], y_test[n:])


class Anchor(NamedTuple):
    """A network linearized at some weights: for training and test images,"""

    model: Model
    backend: Backend
    rows: tuple[Rows, Rows]
    """its Jacobians,"""
    from_weights: tuple[dict[str, Array], dict[str, Array]]
    """J_g w0_g,"""
    outputs: tuple[Array, Array]
    """and its logits, or all features."""


class Segment(NamedTuple):
    """From one anchor to the next."""

    moves: At
    """D, in coordinates."""
    leaving: tuple[Array, Array]
    """J D of logits, or of all features, where it begins, for training and test images."""
    arriving: tuple[Array, Array]
    """Where it ends."""


@dataclass(frozen=True)
class Anchors:
    """Some anchors, the first at w0, the segments between them, and the kernels among them."""

    subject: Subject
    anchors: tuple[Anchor, ...]
    segments: tuple[Segment, ...]
    blocks: Mapping[tuple[str, int, int], dict[str, Array]]
    """("train" or "test", k, j) -> J_k J_jᵀ by group, of those images by the training images; j ≤ k for train."""
    mixing: dict[str, Float[Array, "c c"]]
    """A_g at w0; used with trace and pseudo kernels."""

    def and_at(self, end: At, names: BundleItems, progress: Count | None = None) -> "Anchors":
        """One anchor more, at coordinates of bundles in the span of those before."""
        moves = {b: x._replace(gamma=x.gamma - 1) for b, x in end.items()}
        for segment in self.segments:
            moves = jax.tree.map(np.subtract, moves, segment.moves)
        last, new = self.anchors[-1], _anchor(self.subject, self.weights(names, end), progress)
        along = trees.subtract(*(whole(self.subject, anchor.model).params for anchor in (new, last)))
        segment = Segment(
            moves, outputs_along(self.subject, last.model, along), outputs_along(self.subject, new.model, along)
        )
        longer = tuple(
            s._replace(moves=_longer(s.moves, len(self.subject.images[0]))) for s in (*self.segments, segment)
        )
        anchors = (*self.anchors, new)
        return replace(self, anchors=anchors, segments=longer, blocks=_blocks(self.subject, anchors, self.blocks))

    def weights(self, names: BundleItems, at: At) -> Tree:
        """Those at coordinates of bundles: γ w0 + Σ_k J_kᵀ α_k."""
        subject, x = self.subject, self.subject.images[0]
        groups = {g: b for b, weights in names for g, _ in weights}
        found = {}
        for b, (alpha, gamma) in at.items():
            moved = jax.tree.map(lambda w, gamma=gamma: gamma[0] * w, subject.params)
            for anchor, part in zip(self.anchors, np.split(alpha, len(self.anchors)), strict=True):
                with jax.default_matmul_precision("highest"):
                    back = _pull(anchor.model.forward)(anchor.model.params, anchor.model.batch_stats, x, part)
                moved = jax.tree.map(jnp.add, moved, back)
            found[b] = moved
        return jax.tree.map(
            lambda group, w, *moved: dict(zip(found, moved, strict=True)).get(groups.get(group), w),
            subject.labels, subject.params, *found.values(),
        )  # fmt: skip

    def tangent(self) -> Tangent:
        """Of the network at w0."""
        return _tangent(self, 1)

    def alone(self, k: int) -> "Anchors":
        """One of the anchors, as if it were the only one."""
        own = {(part, 0, 0): self.blocks[part, k, k] for part in ("train", "test")}
        return replace(self, anchors=(self.anchors[k],), segments=(), blocks=own)

    def path(self) -> Path:
        """Along all anchors."""
        train, test = (
            known(
                [anchor.outputs[i] for anchor in self.anchors], [(s.leaving[i], s.arriving[i]) for s in self.segments]
            )
            for i in (0, 1)
        )
        moves = [segment.moves for segment in self.segments]
        stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *moves) if moves else {}
        return Path(_tangent(self, len(self.anchors)), stacked, train, test, self.subject.directions)


def at_start(subject: Subject, count: int, progress: Count | None = None) -> Anchors:
    """One anchor, at w0.

    Args:
      count: of all that there will be.

    Raises:
      LinftError: too little memory; and as of `empirical_ntk`.
    """
    _fits(subject, count)
    first = _anchor(subject, subject.params, progress)
    blocks, few = _blocks(subject, (first,), {}), None
    if subject.how.outputs == "trace":
        few = empirical_ntk(first.model, subject.images[0][:MIXING_IMAGES], groups=list(subject.groups))
    spread = mixing(first.model, Kernel(blocks["train", 0, 0], subject.how.outputs), few, subject.labels)
    return Anchors(subject, (first,), (), blocks, spread)


def _fits(subject: Subject, count: int) -> None:
    (train, test), item = subject.images, trees.precision(subject.params).itemsize
    parameters = sum(size for group, size in trees.sizes(subject.params, subject.labels) if group in subject.groups)
    c = subject.num_outputs
    k = c if subject.how.outputs == "full" else 1
    n, m = count * len(train) * k, count * len(test) * k
    needs = {
        "Jacobians": count * (len(train) + len(test)) * c * parameters * item,
        "kernels": 2 * len(subject.groups) * n * (n + m) * item,
    }
    memory.check(needs, memory.budget(subject.how.memory), 'use fewer anchors or images, or outputs="trace"')


def _backend(subject: Subject, model: Model) -> Backend:
    of_path = {trees.path_of(p): g for p, g in jax.tree_util.tree_leaves_with_path(subject.labels)}
    wanted = {path: group for path, group in of_path.items() if group in subject.groups}
    plan = follow(model, subject.images[0])
    return engine.of_layers(
        model, plan, wanted, engine.directions(subject.how, model.num_classes, model.dtype), subject.how
    )


def _anchor(subject: Subject, params: Tree, progress: Count | None) -> Anchor:
    model = subject.at(params)
    backend, tell = _backend(subject, model), counter(progress, sum(map(len, subject.images)))
    train, test = (engine.held(backend, x, equal_size(len(x), subject.how.batch_size), tell) for x in subject.images)
    from_train, from_test = (pushed(model, x, subject.params, subject.labels, subject.groups) for x in subject.images)
    on_train, on_test = (outputs_on(whole(subject, model), x) for x in subject.images)
    return Anchor(model, backend, (train, test), (from_train, from_test), (on_train, on_test))


def _blocks(
    subject: Subject, anchors: tuple[Anchor, ...], known: Mapping[tuple[str, int, int], dict[str, Array]]
) -> dict[tuple[str, int, int], dict[str, Array]]:
    """Those known, and the kernels of the last anchor with every other."""
    backend, last = anchors[-1].backend, len(anchors) - 1
    wanted = [("train", last, j) for j in range(last + 1)] + [("test", last, j) for j in range(last + 1)]
    wanted += [("test", k, last) for k in range(last)]
    found = dict(known)
    for part, k, j in wanted:
        block = backend.between(anchors[k].rows[part == "test"], anchors[j].rows[0])
        refuse_not_finite(block, 0, 0)
        if (part, k, j) == ("train", last, last):
            backend.check(block, subject.images[0], None)
        found[part, k, j] = {g: jnp.asarray(values) for g, values in block.items()}
    return found


def _tangent(built: Anchors, count: int) -> Tangent:
    """Of the Jacobians at the first anchors, one after another."""
    subject, anchors = built.subject, built.anchors[:count]

    def joined(block: Callable[[int, int], Mapping[str, Array]]) -> Kernel:
        rows = [[block(k, j) for j in range(count)] for k in range(count)]
        axis = 1 if subject.how.outputs != "full" else 2
        blocks = {
            g: jnp.concatenate([jnp.concatenate([b[g] for b in row], axis) for row in rows]) for g in subject.groups
        }
        return Kernel(blocks, subject.how.outputs)

    def between(k: int, j: int) -> Mapping[str, Array]:
        if j <= k:
            return built.blocks["train", k, j]
        return {g: transposed(block) for g, block in built.blocks["train", j, k].items()}

    def of_all(parts: Iterable[Array]) -> Array:
        return jnp.concatenate(list(parts))

    squares = trees.dots_by_group(subject.params, subject.params, subject.labels, jax.tree.leaves(subject.labels))
    on_train, on_test = (
        of_all(a.outputs[i] if subject.directions is None else a.outputs[i] @ subject.directions for a in anchors)
        for i in (0, 1)
    )
    return Tangent(
        logits_train=on_train,
        logits_test=on_test,
        labels_train=of_all([subject.targets[0]] * count),
        labels_test=of_all([subject.targets[1]] * count),
        kernel_train=joined(between),
        kernel_test=joined(lambda k, j: built.blocks["test", k, j]),
        weights_train={g: of_all(a.from_weights[0][g] for a in anchors) for g in subject.groups},
        weights_test={g: of_all(a.from_weights[1][g] for a in anchors) for g in subject.groups},
        squared_norms={g: squares[g] for g in subject.groups},
        mixing=built.mixing,
        batch_norm=subject.batch_norm,
        draws=subject.draws,
    )


def whole(subject: Subject, model: Model) -> Model:
    """With all features as logits, where those are linearized along some directions."""
    return model if subject.directions is None else under(model, jnp.eye(len(subject.directions), dtype=model.dtype))


def _longer(moves: At, n: int) -> At:
    """In the coordinates of one anchor more."""
    return {b: x._replace(alpha=np.pad(x.alpha, ((0, n), (0, 0)))) for b, x in moves.items()}


def outputs_along(subject: Subject, model: Model, direction: Tree) -> tuple[Array, Array]:
    """J u of logits, or of all features, on training and test images."""
    complete = whole(subject, model)
    every = jax.tree.map(lambda leaf: "all", direction)
    on_train, on_test = (pushed(complete, x, direction, every, ("all",))["all"] for x in subject.images)
    return on_train, on_test


@lru_cache(maxsize=8)
def _pull(forward: Forward) -> Callable[..., Tree]:
    """(params, batch_stats, x, α) -> Jᵀ α."""

    @jax.jit
    def pull(params: Tree, batch_stats: Tree, x: Array, alpha: Array) -> Tree:
        return jax.vjp(lambda p: forward(p, batch_stats, x)[0], params)[1](alpha)[0]

    return pull
