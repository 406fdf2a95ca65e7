"""Prediction with a kernel that moves along the path that it predicts itself, without any training.

Predict from the Jacobian at w0, as `dual` and `explicit` do, up to the first anchor; take the Jacobian there; predict
all steps again, from w0 on, with the network known along the path so far (`predict.path`, or `predict.explicit_path`),
up to the next anchor; and so on. With anchors 0, …, K − 1 the k-th is where the predicted weights have gone 2^(k + 1 −
K) of their way from w0, or half as far again as at the anchor before: further on, a prediction from there says little.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple, get_args

import numpy as np

from linft.core import losses
from linft.core.base import BatchNorm, Certificate, Model, Outputs, Tangent, Trajectory
from linft.core.draws import still
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.core.recipe_fields import Means, why_not
from linft.core.task import Task
from linft.core.trees import Tree
from linft.ntk.empirical import how_of
from linft.ntk.engine import How
from linft.predict import replay
from linft.predict.anchors import Anchors
from linft.predict.certificate import LOOKS, Evidence, evidence, steps_to_look_at
from linft.predict.dual import predictable
from linft.predict.explicit_path import ExplicitAnchors
from linft.predict.frames import Frame, What, frame, groups_of
from linft.predict.replay import Replayed, Stop
from linft.predict.running import running_averages, running_curves
from linft.predict.stability import stability
from linft.predict.tangent import outputs_on, with_value
from linft.runtime.progress import Count
from linft.training.optimizer import Settings

ANCHORS = 4
STOPS = LOOKS + 1
"""Steps at which a replay tells where it is: those that are looked at, and the next anchor's."""
WITHIN = 0.1
"""The error up to which a horizon is told, where none is asked for."""
FURTHER = 1.5
"""How much further from w0 an anchor may be than the one before, the first two apart."""


def moving(
    model: Model,
    task: Task,
    *,
    at: What = "network",
    by: Means | None = None,
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
    Jacobian more, and kernels of (K N C)² numbers. Takes the recipes that they take, and those of any optimizer, such
    as Adam and AdamW, by the Jacobians themselves as `explicit` does: K (N + M) C P numbers for P weights.

    Args:
      at: network, or features, with the head exact and the features' path known along few directions; better where
        the head is fresh.
      by: kernel or Jacobian; by default the Jacobian where no kernel follows the recipe. Both are the same prediction
        as long as the weights pass one anchor after another.
      anchors: K, Jacobians on the path at most, that at w0 included; as many are taken as the prediction is surest of
        itself with. Beyond the last the network is linear.
      outputs: of kernels, as in `tangent`; full with `at="features"`.
      rank: leading directions of the features, beside the head's, as in `feature_tangent`.
      batch_norm: as in `tangent`; in training mode statistics are re-estimated at every anchor, and curves with their
        running averages are `Trajectory.running`, with which the predicted network ends.
      error: of the train-loss curve, that is to be held: no further anchor is set once the certificate says so.
      record_every: measure every so many steps; about a dozen times by default.
      batch_size, progress: as in `empirical_ntk`.

    Raises:
      LinftError: nothing here predicts the recipe; an error that is not above 0.
      Unavailable: too little memory.

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
    for name, value, choices in (("at", at, get_args(What)), ("by", by, (*get_args(Means), None))):
        if value not in choices:
            raise LinftError(f"{name} is {value!r}; choose among {', '.join(map(str, choices))}")
    if by == "Jacobian" and outputs != "full":
        raise LinftError('outputs must be "full" with by="Jacobian", which has no kernel')
    if at == "features" and outputs != "full":
        raise LinftError('outputs must be "full" with at="features", whose kernels are along few directions already')
    how = how_of(outputs=outputs, batch_size=batch_size)
    return Moving(model, task, at, by, anchors, how, rank, batch_norm, error, record_every, progress)


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
    """At the weights predicted at a step, or at their average where the recipe has one."""
    weights: Callable[[int], Tree]
    """Those predicted at a step themselves."""

    @property
    def steps(self) -> tuple[int, ...]:
        """At which the predicted weights reached the anchors."""
        return self.way.steps

    @property
    def tangents(self) -> tuple[Tangent, ...]:
        """Of what is linearized, at every anchor; none where Jacobians are held themselves."""
        built = self.way.built[-1]
        if isinstance(built, ExplicitAnchors):
            return ()
        return tuple(built.alone(k).tangent() for k in range(len(built.anchors)))

    @property
    def edges(self) -> tuple[float, ...]:
        """The learning rate over the largest stable one, of the full batch, at every anchor of a network's kernels."""
        tangents = self.tangents
        if not tangents or self.way.frame.what.at != "network":
            return ()
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

    frame: Frame
    names: Any
    """Of what moves as one."""
    start: Any
    """The tangent at w0."""
    built: tuple[Anchors | ExplicitAnchors, ...]
    """One anchor, two, and so on."""
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Moving:
    """The Run that `moving` gives."""

    model: Model
    task: Task
    at: What
    by: Means | None
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
        surest = self._with_running_averages(surest)
        return surest._replace(trajectory=replace(surest.trajectory, seconds=time.perf_counter() - begin))

    def stages(self, recipe: Recipe) -> Iterator[Followed]:
        """The predictions with one anchor, with two, and so on."""
        how = {"at": self.at, "rank": self.rank, "how": self.how, "batch_norm": self.batch_norm}
        found = frame(self.model, self.task, recipe, by=self.by_for(recipe), **how)
        names, settings = found.settings(recipe)
        built = found.at_start(self.anchors, self._tell(0))
        way, runs = Way(found, names, found.start(built), (built,), (0,)), []
        while True:
            predicted = self._replay(way, settings, recipe, way.built[-1])
            runs.append(predicted(1).trajectory)
            last = len(way.steps) == self.anchors
            step = None if last else _next(runs[-1], way.steps[-1], 0.5 ** (self.anchors - 1 - len(way.steps)))
            stopped = predicted(self.record_every, *steps_to_look_at(runs[-1]), *(() if step is None else (step,)))
            yield self._followed(way, recipe, predicted, stopped, list(runs))
            if step is None:
                return
            there, tell = found.what.below(stopped.stops[step].at), self._tell(len(way.steps))
            further = way.built[-1].and_at(there, names, tell)
            way = way._replace(built=(*way.built, further), steps=(*way.steps, step))

    def along(self, way: Way, recipe: Recipe) -> Followed | None:
        """Another recipe along a path; None where it tells layers apart that the path's does not.

        Whether it leaves the path the network at the predicted weights tells.
        """
        begin = time.perf_counter()
        by = self.by_for(recipe)
        if (by, groups_of(by, self.model, recipe)) != (way.frame.by, way.frame.groups):
            return None
        names, settings = way.frame.settings(recipe)
        if names != way.names:
            return None
        replays = [self._replay(way, settings, recipe, built) for built in way.built]
        runs = [predicted(1).trajectory for predicted in replays]
        stopped = replays[-1](self.record_every, *steps_to_look_at(runs[-1]))
        found = self._with_running_averages(self._followed(way, recipe, replays[-1], stopped, runs))
        shared, seconds = replace(found.certificate, shared=True), time.perf_counter() - begin
        own = None if found.trajectory.certificate is None else shared
        trajectory = replace(found.trajectory, certificate=own, seconds=seconds)
        return found._replace(trajectory=trajectory, certificate=shared)

    def by_for(self, recipe: Recipe) -> Means:
        """By what a recipe is predicted: as asked for, else by kernels where they follow it."""
        by = self.by or ("Jacobian" if why_not(still(recipe), "kernel", batch_norm=self.batch_norm) else "kernel")
        predictable([recipe], self.batch_norm, self.task.draws, by)
        return by

    def _replay(
        self, way: Way, settings: Settings, recipe: Recipe, built: Anchors | ExplicitAnchors
    ) -> Callable[..., Replayed]:
        """(record_every, *stops) -> the replay."""
        arrays, rows = (built.path(), way.start), way.start.rows(recipe)

        def predicted(record_every: int | None, *stops: int) -> Replayed:
            always = (*stops, *(0,) * (STOPS - len(stops)))  # as many, so that one program serves
            (found,) = replay.replay(
                way.frame.network, way.names, arrays, settings, [recipe], rows, record_every, stops=always
            )
            return found

        return predicted

    def _followed(
        self, way: Way, recipe: Recipe, predicted: Callable[..., Replayed], stopped: Replayed, runs: list[Trajectory]
    ) -> Followed:
        """The last of the runs, with what tells how far it is to be trusted, and the network where it ends."""
        looks, model, subject = {}, self.model, way.frame.what.subject
        (images, labels), _ = subject.as_they_are

        def stop(step: int) -> Stop:
            return (stopped if step in stopped.stops else predicted(None, step)).stops[step]

        @cache  # the same steps are looked at again where running averages are predicted
        def network(step: int) -> Model:
            return self._at(way, stop(step).measured)

        for step in steps_to_look_at(runs[-1]):  # the last of them its end
            model = network(step)
            logits = outputs_on(with_value(model, self.task, self.batch_norm), images)
            looks[step] = float(losses.mean_loss(recipe.loss, logits, labels))
        told = evidence([run.train_loss for run in runs], looks, runs[-1].diverged_at is not None, recipe.optimizer)
        certificate = told.certificate(WITHIN if self.error is None else self.error)
        own = certificate if subject.draws is None else None
        trajectory = replace(stopped.trajectory, certificate=own, model=model)
        return Followed(
            trajectory, certificate, told, way, recipe, network, lambda step: self._at(way, stop(step).at).params
        )

    def _with_running_averages(self, found: Followed) -> Followed:
        """With curves, and the network where it ends, by the running averages of batch norm in training mode."""
        if self.batch_norm == "frozen" or not self.model.has_statistics:
            return found
        subject, start, looks = found.way.frame.what.subject, found.way.start, found.evidence.looks
        weights = {0: self.model.params, **{step: found.weights(step) for step in looks}}
        averages = running_averages(self.model, found.recipe, weights, subject.images[0], start.rows(found.recipe))
        networks = {0: self.model, **{step: found.network(step).replace(batch_stats=averages[step]) for step in looks}}
        curves = running_curves(found.recipe, networks, *subject.as_they_are)
        *_, last = networks.values()
        return found._replace(trajectory=replace(found.trajectory, running=curves, model=last))

    def _at(self, way: Way, at: Tree) -> Model:
        """The network at coordinates."""
        below = way.built[-1].weights(way.names, way.frame.what.below(at))
        return self.model.replace(params=way.frame.what.params(at, below))

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
