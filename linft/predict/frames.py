"""What a prediction along its own path linearizes, what stays as it is, and in which coordinates it moves.

Two choices make four frames: the network, or its features under a head that stays exact; and coordinates in the span of
w0 and of the Jacobians, by kernels, or the weights themselves, by the Jacobians.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from linft.core import trees
from linft.core.base import BatchNorm, Model, Tangent
from linft.core.recipe import Recipe
from linft.core.recipe_fields import Means
from linft.core.task import Task
from linft.core.trees import Groups, Tree
from linft.ntk.engine import How
from linft.predict.anchors import Anchors, Subject, at_start
from linft.predict.dual import of_logits
from linft.predict.explicit import ByName, beginning, by_path, by_stage, settings_by_path
from linft.predict.explicit_path import ExplicitAnchors, ExplicitPath, about_weights, explicit_at_start
from linft.predict.feature_dual import head_settings, under_head
from linft.predict.feature_tangent import HEAD, FeatureTangent, leading, under, viewed
from linft.predict.path import Path, about
from linft.predict.replay import Build, Network
from linft.predict.span import BundleItems, Span, bundle_equal, items
from linft.predict.tangent import in_mode, outputs_on, with_value
from linft.runtime.progress import Count
from linft.training import optimizer
from linft.training.optimizer import Settings

What = Literal["network", "features"]


class Linearized(NamedTuple):
    """The network, or its features under a head that stays exact."""

    at: What
    subject: Subject
    own: ByName
    """By the path of a parameter that is linearized, its group."""
    head_groups: ByName
    """The group of each array of a head that stays exact."""
    start: Callable[[Tangent, tuple[Array, Array], ByName], Any]
    """(tangent at w0, outputs there, head_groups) -> the tangent with its head."""
    below: Callable[[Tree], Any]
    """The coordinates of what is linearized among all."""
    params: Callable[[Tree, Tree], Tree]
    """All weights, from all coordinates and the weights of what is linearized."""


class Frame(NamedTuple):
    """What moves, and how."""

    by: Means
    groups: Groups
    """In which recipes may set layers apart."""
    what: Linearized
    at_start: Callable[[int, Count | None], Any]
    """(anchors in all, progress) -> the anchor at w0, as `Anchors` or `ExplicitAnchors`."""
    start: Callable[[Any], Any]
    """From it to the tangent there."""
    settings: Callable[[Recipe], tuple[Any, Settings]]
    """What a recipe moves as one, by name, and what it does to each."""

    @property
    def network(self) -> Build:
        """Near the path."""
        return NETWORKS[self.by, self.what.at]


def frame(
    model: Model, task: Task, recipe: Recipe, *, by: Means, at: What, rank: int, how: How, batch_norm: BatchNorm
) -> Frame:
    """The frame of a recipe, which takes others too that tell the same layers apart.

    Args:
      at, rank, batch_norm: as in `predict.moving`.
    """
    groups = groups_of(by, model, recipe)
    return COORDINATES[by](LINEARIZED[at](model, task, groups, rank, how, batch_norm), groups, task.num_images)


def groups_of(by: Means, model: Model, recipe: Recipe) -> Groups:
    """In which a frame lets a recipe set layers apart."""
    if by == "kernel":
        return optimizer.kernel_groups(model.layer_groups, recipe)
    return trees.split_vectors(model.layer_groups)


def _network(model: Model, task: Task, groups: Groups, rank: int, how: How, batch_norm: BatchNorm) -> Linearized:
    labels = trees.labels(model.params, groups)
    own = by_path(labels)
    subject = _subject(model, task, None, labels, own, how, batch_norm)
    return Linearized(
        "network", subject, own, (), lambda tangent, outputs, names: tangent, lambda at: at, lambda at, params: params
    )


def _features(model: Model, task: Task, groups: Groups, rank: int, how: How, batch_norm: BatchNorm) -> Linearized:
    head = dict(trees.get(model.params, model.head))
    every = jnp.eye(len(head["kernel"]), dtype=model.dtype)
    features = outputs_on(under(with_value(model, task, batch_norm), every), model.preprocess(task.x_train))
    directions = jnp.asarray(leading(np.asarray(features), np.asarray(head["kernel"]), rank), model.dtype)
    view, _, head_groups = viewed(model, groups, directions)
    labels = trees.labels(view.params, view.layer_groups)
    own = tuple((path, group) for path, group in by_path(labels) if group != HEAD)
    subject = _subject(view, task, directions, labels, own, how, batch_norm)

    def start(tangent: Tangent, outputs: tuple[Array, Array], names: ByName) -> FeatureTangent:
        return FeatureTangent(tangent, directions, *outputs, head, 0.0, names)

    def params(at: Tree, below: Tree) -> Tree:
        return trees.put(below, model.head, at["head"])

    return Linearized("features", subject, own, head_groups, start, lambda at: at["below"], params)


LINEARIZED = {"network": _network, "features": _features}


def _subject(
    view: Model, task: Task, directions: Array | None, labels: Tree, own: ByName, how: How, batch_norm: BatchNorm
) -> Subject:
    return Subject(
        at=lambda params: in_mode(view.replace(params=params), task, batch_norm),
        directions=directions,
        params=view.params,
        images=(view.preprocess(task.x_train), view.preprocess(task.x_test)),
        targets=(jnp.asarray(task.y_train), jnp.asarray(task.y_test)),
        labels=labels,
        groups=tuple(dict.fromkeys(group for _, group in own)),
        num_outputs=view.num_classes,
        how=how,
        batch_norm=batch_norm,
        draws=task.draws,
    )


def _by_kernels(what: Linearized, groups: Groups, n: int) -> Frame:
    """Coordinates of bundles of groups."""
    below = what.subject.groups
    every = tuple(dict.fromkeys([*below, *(group for _, group in what.head_groups)]))

    def settings(recipe: Recipe) -> tuple[BundleItems, Settings]:
        own = optimizer.settings(recipe, every, n)
        bundles, moved = bundle_equal([own.on({g: own.groups[g] for g in below})])
        return items(bundles), moved.on(moved.groups | head_settings([own], what.head_groups).groups)

    def start(first: Anchors) -> Any:
        return what.start(first.tangent(), first.anchors[0].outputs, what.head_groups)

    return Frame("kernel", groups, what, partial(at_start, what.subject), start, settings)


def _by_jacobians(what: Linearized, groups: Groups, n: int) -> Frame:
    """The weights of every parameter."""
    subject, names = what.subject, by_stage(what.own)

    def settings(recipe: Recipe) -> tuple[ByName, Settings]:
        return names, settings_by_path([recipe], what.own, what.head_groups, n)

    def start(first: ExplicitAnchors) -> Any:
        outputs = first.anchors[0].outputs
        along = outputs if subject.directions is None else tuple(x @ subject.directions for x in outputs)
        tangent = beginning(subject.targets, subject.draws, subject.batch_norm, *along)
        return what.start(tangent, outputs, by_stage(what.head_groups))

    return Frame("Jacobian", groups, what, partial(explicit_at_start, subject, names), start, settings)


COORDINATES = {"kernel": _by_kernels, "Jacobian": _by_jacobians}


def _logits(reach: Callable[[Any, Any], Span], names: Any, arrays: tuple[Path | ExplicitPath, Tangent]) -> Network:
    path, start = arrays
    return of_logits(reach(names, path), start)


def _under_head(
    reach: Callable[[Any, Any], Span], names: Any, arrays: tuple[Path | ExplicitPath, FeatureTangent]
) -> Network:
    path, start = arrays
    return under_head(reach(names, path), start)


NETWORKS: dict[tuple[Means, What], Build] = {
    ("kernel", "network"): partial(_logits, about),
    ("kernel", "features"): partial(_under_head, about),
    ("Jacobian", "network"): partial(_logits, about_weights),
    ("Jacobian", "features"): partial(_under_head, about_weights),
}
"""Made once, since programs are compiled for each."""
