"""Prediction with a kernel that moves along the path that it predicts itself, without any training.

Predict from the Jacobian at w0, as `dual` does, up to the first anchor; take the Jacobian there; predict all steps
again, from w0 on, with the network known along the path so far (`predict.path`), up to the next anchor; and so on.
With anchors 0, …, K − 1 the k-th is where the predicted weights have gone 2^(k + 1 − K) of their way from w0, or half
as far again as at the anchor before: further on, a prediction from there says little.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from linft.core import losses, trees
from linft.core.base import BatchNorm, Certificate, Model, Outputs, Tangent, Trajectory
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.core.trees import Groups, Tree
from linft.ntk.empirical import how_of
from linft.ntk.engine import How
from linft.predict import replay
from linft.predict.anchors import Anchors, Subject, at_start
from linft.predict.certificate import Evidence, evidence, steps_to_look_at
from linft.predict.dual import of_logits, predictable
from linft.predict.feature_dual import head_settings, under_head
from linft.predict.feature_tangent import FeatureTangent, leading, under, viewed
from linft.predict.path import Path, about
from linft.predict.replay import Build, Network, Replayed
from linft.predict.span import At, BundleItems, bundle_equal, items
from linft.predict.stability import stability
from linft.predict.tangent import in_mode, outputs_on, with_value
from linft.runtime.progress import Count
from linft.training import optimizer
from linft.training.optimizer import Settings

ANCHORS = 4
WITHIN = 0.1
"""The error up to which a horizon is told, where none is asked for."""
FURTHER = 1.5
"""How much further from w0 an anchor may be than the one before, the first two apart."""


def moving(
    model: Model,
    task: Task,
    *,
    at: Literal["network", "features"] = "network",
    anchors: int = ANCHORS,
    outputs: Outputs = "full",
    rank: int = 8,
    batch_norm: BatchNorm = "frozen",
    batch_size: int = 32,
    error: float | None = None,
    record_every: int | None = None,
    progress: Count | None = None,
) -> "Moving":
    """Predict fine-tuning with the network known along its own predicted path, to first order about it: a Run.

    `dual` is exact for the network linearized at w0, which nobody trains. Here the Jacobian follows the weights: to
    second order between anchors on the path. With one anchor it is `dual`, or `feature_dual`; every other costs one
    Jacobian more, and kernels of (K N C)² numbers. Takes the recipes that they take.

    Args:
      at: network, or features, with the head exact and the features' path known along few directions; better where
        the head is fresh.
      anchors: K, Jacobians on the path at most, that at w0 included; as many are taken as the prediction is surest of
        itself with. Beyond the last the network is linear.
      outputs: of the kernels, as in `tangent`; full with `at="features"`.
      rank: leading directions of the features, beside the head's, as in `feature_tangent`.
      batch_norm: as in `tangent`; in training mode statistics are re-estimated at every anchor.
      error: of the train-loss curve, that is to be held: no further anchor is set once the certificate says so.
      record_every: measure every so many steps; about a dozen times by default.
      batch_size, progress: as in `empirical_ntk`.

    Raises:
      LinftError: no kernel predicts the recipe; an error that is not above 0.
      Unavailable: too little memory; a network that the layerwise engine does not cover.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(10, 10)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=4)
      >>> run = moving(model, task, anchors=2)
      >>> run(linft.Recipe(learning_rate=0.01, batch_size=5, steps=4)).train_loss.shape
      (5,)
    """
    model.check_classes(task)
    if anchors < 1:
        raise LinftError(f"anchors is {anchors}; it must be 1 or more")
    if error is not None and not error > 0:
        raise LinftError(f"error is {error}; give a number above 0, such as 0.05")
    if at not in ("network", "features"):
        raise LinftError(f"at is {at!r}; choose among network, features")
    if at == "features" and outputs != "full":
        raise LinftError('outputs must be "full" with at="features", whose kernels are along few directions already')
    how = how_of(outputs=outputs, batch_size=batch_size)
    return Moving(model, task, at, anchors, how, rank, batch_norm, error, record_every, progress)


class Followed(NamedTuple):
    """A prediction, what it went through, and how far it is to be trusted."""

    trajectory: Trajectory
    certificate: Certificate
    """Which the trajectory has too, but where images are draws: of what others would do it does not tell."""
    evidence: Evidence
    """How far it is to be trusted."""
    way: "Way"
    recipe: Recipe
    network: Callable[[int], Model]
    """At the weights predicted at a step."""

    @property
    def steps(self) -> tuple[int, ...]:
        """At which the predicted weights reached the anchors."""
        return self.way.steps

    @property
    def tangents(self) -> tuple[Tangent, ...]:
        """Of what is linearized, at every anchor."""
        built = self.way.built[-1]
        return tuple(built.alone(k).tangent() for k in range(len(built.anchors)))

    @property
    def edges(self) -> tuple[float, ...]:
        """The learning rate over the largest stable one, of the full batch, at every anchor; none of features."""
        if self.way.built[-1].subject.directions is not None:
            return ()
        tangents = self.tangents
        steps = self.recipe.num_steps(tangents[0].num_images)
        whole = self.recipe.replace(batch_size=None, steps=steps, epochs=None)
        return tuple(found.h / found.limit for found in (stability(tangent, whole) for tangent in tangents))

    def noted(self) -> Trajectory:
        """The prediction, with a note of where it has its Jacobians, and how near the edge of stability is there."""
        places = f"step{'s' if len(self.steps) > 1 else ''} {', '.join(map(str, self.steps))}"
        note = f"with Jacobians at {places} of the predicted path"
        if edges := self.edges:
            note += f", where the rate is {', '.join(f'{edge:.2g}' for edge in edges)} of the largest stable one"
        return replace(self.trajectory, note=note)


class Way(NamedTuple):
    """The Jacobians along a path, whatever recipe led there."""

    frame: "Frame"
    groups: Groups
    """Of the kernels, as the recipe tells layers apart."""
    names: BundleItems
    start: Any
    """The tangent at w0."""
    built: tuple[Anchors, ...]
    """One anchor, two, and so on."""
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Moving:
    """The Run that `moving` gives."""

    model: Model
    task: Task
    at: Literal["network", "features"]
    anchors: int
    how: How
    rank: int
    batch_norm: BatchNorm
    error: float | None
    record_every: int | None
    progress: Count | None

    def __call__(self, recipe: Recipe) -> Trajectory:
        return self.follow(recipe).trajectory

    def many(self, recipes: Iterable[Recipe]) -> list[Trajectory]:
        """One after another, along shared paths."""
        return SharedPaths(self).many(recipes)

    def follow(self, recipe: Recipe) -> Followed:
        """The prediction that is surest of itself, of those with as few anchors as hold the error, or of all.

        More anchors are no better where the rate is above the edge of stability along the path: there a path is left.
        """
        begin, surest, least = time.perf_counter(), None, np.inf
        for found in self.stages(recipe):
            told = found.evidence.error(len(found.evidence.predicted))
            if surest is None or told <= least:
                surest, least = found, told
            if self.error is not None and least <= self.error:
                break
        assert surest is not None
        return surest._replace(trajectory=replace(surest.trajectory, seconds=time.perf_counter() - begin))

    def stages(self, recipe: Recipe) -> Iterator[Followed]:
        """The predictions with one anchor, with two, and so on."""
        predictable([recipe], self.batch_norm, self.task.draws)
        groups = optimizer.kernel_groups(self.model.layer_groups, recipe)
        frame = FRAMES[self.at](self, groups)
        names, settings = _settings(frame, recipe, self.task.num_images)
        built = at_start(frame.subject, self.anchors, self._tell(0))
        way, runs = Way(frame, groups, names, frame.start(built), (built,), (0,)), []
        while True:
            predicted = self._replay(way, settings, recipe, way.built[-1])
            runs.append(predicted(1)[0].trajectory)
            yield self._followed(way, recipe, predicted, list(runs))
            step = _next(runs[-1], way.steps[-1], 0.5 ** (self.anchors - 1 - len(way.steps)))
            if len(way.steps) == self.anchors or step is None:
                return
            there, tell = frame.below(predicted(1, stop=step)[0].end), self._tell(len(way.steps))
            further = way.built[-1].and_at(there, names, tell)
            way = way._replace(built=(*way.built, further), steps=(*way.steps, step))

    def along(self, way: Way, recipe: Recipe) -> Followed | None:
        """Another recipe along a path; None where it tells layers apart that the path's does not.

        Whether it leaves the path the network at the predicted weights tells.
        """
        begin = time.perf_counter()
        predictable([recipe], self.batch_norm, self.task.draws)
        if optimizer.kernel_groups(self.model.layer_groups, recipe) != way.groups:
            return None
        names, settings = _settings(way.frame, recipe, self.task.num_images)
        if names != way.names:
            return None
        replays = [self._replay(way, settings, recipe, built) for built in way.built]
        runs = [predicted(1)[0].trajectory for predicted in replays]
        found = self._followed(way, recipe, replays[-1], runs)
        shared, seconds = replace(found.certificate, shared=True), time.perf_counter() - begin
        own = None if found.trajectory.certificate is None else shared
        trajectory = replace(found.trajectory, certificate=own, seconds=seconds)
        return found._replace(trajectory=trajectory, certificate=shared)

    def _replay(self, way: Way, settings: Settings, recipe: Recipe, built: Anchors) -> Callable[..., list[Replayed]]:
        """(record_every, stop) -> the replay."""
        arrays, rows = (built.path(), way.start), way.start.rows(recipe)
        return partial(replay.replay, way.frame.network, way.names, arrays, settings, [recipe], rows)

    def _followed(
        self, way: Way, recipe: Recipe, predicted: Callable[..., list[Replayed]], runs: list[Trajectory]
    ) -> Followed:
        """The last of the runs, with what tells how far it is to be trusted, and the network where it ends."""
        looks, model, subject = {}, self.model, way.frame.subject
        images, labels = subject.as_they_are

        def network(step: int) -> Model:
            return self._at(way, predicted(1, stop=step)[0].measured)

        for step in steps_to_look_at(runs[-1]):  # the last of them its end
            model = network(step)
            logits = outputs_on(with_value(model, self.task, self.batch_norm), images)
            looks[step] = float(losses.mean_loss(recipe.loss, logits, labels))
        told = evidence([run.train_loss for run in runs], looks, runs[-1].diverged_at is not None)
        certificate = told.certificate(WITHIN if self.error is None else self.error)
        own = certificate if subject.draws is None else None
        trajectory = replace(predicted(self.record_every)[0].trajectory, certificate=own, model=model)
        return Followed(trajectory, certificate, told, way, recipe, network)

    def _at(self, way: Way, at: Tree) -> Model:
        """The network at coordinates."""
        below = way.built[-1].weights(way.names, way.frame.below(at))
        return self.model.replace(params=way.frame.params(at, below))

    def _tell(self, anchor: int) -> Count | None:
        """Progress of one anchor, as that of all."""
        progress, anchors = self.progress, self.anchors
        if progress is None:
            return None
        return lambda done, total: progress(anchor * total + done, anchors * total)


@dataclass(frozen=True)
class SharedPaths:
    """A Run: recipes one after another, each along the path of one before it where its certificate holds there.

    Only the last path is kept, since it has all its Jacobians.
    """

    run: Moving
    kept: list[Way] = field(default_factory=list)

    def __call__(self, recipe: Recipe) -> Trajectory:
        return self.follow(recipe).trajectory

    def many(self, recipes: Iterable[Recipe]) -> list[Trajectory]:
        return [self(recipe) for recipe in recipes]

    def follow(self, recipe: Recipe) -> Followed:
        """The prediction along the path that is kept, else along its own, which is kept from then on."""
        shared = self.run.along(self.kept[0], recipe) if self.kept else None
        if shared is not None and shared.certificate.holds:
            return shared
        del shared  # and its path, before the next one takes as much memory
        self.kept.clear()
        own = self.run.follow(recipe)
        self.kept.append(own.way)
        return own


def _settings(frame: "Frame", recipe: Recipe, n: int) -> tuple[BundleItems, Settings]:
    """The bundles in which a recipe moves the groups, and what it does to each."""
    settings = optimizer.settings(recipe, frame.groups, n)
    bundles, below = bundle_equal([settings.on({g: settings.groups[g] for g in frame.subject.groups})])
    return items(bundles), below.on(below.groups | head_settings([settings], frame.head_groups).groups)


def _next(predicted: Trajectory, last: int, share: float) -> int | None:
    """The first step after the last anchor's at which the weights are as far as the next one; None without one.

    Of the weights' average, where the recipe has one. The way ends where the loss is last below its first value: a
    prediction that diverges says nothing of what follows.
    """
    below = predicted.train_loss <= predicted.train_loss[0]
    end = int(np.flatnonzero(below)[-1])
    distance = np.sqrt(sum(np.square(by_group) for by_group in predicted.distance.values()))[: end + 1]
    wanted = share * distance[-1]
    if 0 < last <= end:
        wanted = min(wanted, FURTHER * distance[last])
    far = (distance >= wanted) & (predicted.steps[: end + 1] > last)
    return int(predicted.steps[np.argmax(far)]) if far.any() else None


class Frame(NamedTuple):
    """What is linearized, and what stays as it is."""

    subject: Subject
    groups: tuple[str, ...]
    """All that a recipe sets."""
    head_groups: tuple[tuple[str, str], ...]
    """The group of each array of a head that stays exact."""
    start: Callable[[Anchors], Any]
    """From the anchor at w0 to the tangent there."""
    network: Build
    below: Callable[[Tree], At]
    """The coordinates of what is linearized among all."""
    params: Callable[[Tree, Tree], Tree]
    """All weights, from all coordinates and the weights of what is linearized."""


def _of_network(moving: Moving, groups: Groups) -> Frame:
    model = moving.model
    labels = trees.labels(model.params, groups)
    names = tuple(dict.fromkeys(jax.tree.leaves(labels)))
    subject = _subject(moving, model, None, labels, names)
    return Frame(subject, names, (), Anchors.tangent, _logits, lambda at: at, lambda at, params: params)


def _of_features(moving: Moving, groups: Groups) -> Frame:
    model, task = moving.model, moving.task
    head = trees.get(model.params, model.head)
    every = jnp.eye(len(head["kernel"]), dtype=model.dtype)
    features = outputs_on(under(with_value(model, task, moving.batch_norm), every), model.preprocess(task.x_train))
    directions = jnp.asarray(leading(np.asarray(features), np.asarray(head["kernel"]), moving.rank), model.dtype)
    view, names, head_groups = viewed(model, groups, directions)
    subject = _subject(moving, view, directions, trees.labels(view.params, view.layer_groups), tuple(names))

    def start(anchors: Anchors) -> FeatureTangent:
        on_train, on_test = anchors.anchors[0].outputs
        return FeatureTangent(anchors.tangent(), directions, on_train, on_test, dict(head), 0.0, head_groups)

    groups_of_all = tuple(dict.fromkeys([*names, *(group for _, group in head_groups)]))

    def under_its_head(at: Tree, params: Tree) -> Tree:
        return trees.put(params, model.head, at["head"])

    return Frame(subject, groups_of_all, head_groups, start, _under_head, lambda at: at["below"], under_its_head)


FRAMES: dict[str, Callable[[Moving, Groups], Frame]] = {"network": _of_network, "features": _of_features}


def _subject(moving: Moving, view: Model, directions: Array | None, labels: Tree, names: tuple[str, ...]) -> Subject:
    task = moving.task

    def at(params: Tree) -> Model:
        return in_mode(view.replace(params=params), task, moving.batch_norm)

    images = view.preprocess(task.x_train), view.preprocess(task.x_test)
    targets = jnp.asarray(task.y_train), jnp.asarray(task.y_test)
    of_task = view.params, images, targets, labels, names, view.num_classes
    return Subject(at, directions, *of_task, moving.how, moving.batch_norm, task.draws)


def _logits(names: BundleItems, arrays: tuple[Path, Tangent]) -> Network:
    path, start = arrays
    return of_logits(about(names, path), start)


def _under_head(names: BundleItems, arrays: tuple[Path, FeatureTangent]) -> Network:
    path, start = arrays
    return under_head(about(names, path), start)
