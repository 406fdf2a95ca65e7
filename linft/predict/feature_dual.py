"""Prediction in function space with the head exact and the features to first order: f = φ W + b is bilinear.

The weights below the head stay w_g = γ_g w0_g + Jφ_gᵀ a_g. With r the gradient of the loss at the logits, that
of a_i is W r_i, and those of W and b are Σ_i φ_i r_iᵀ and Σ_i r_i: the same optax chain moves (a, γ, W, b).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from linft.core.base import BatchNorm, Model, Trajectory, dense
from linft.core.errors import LinftError
from linft.core.recipe import Recipe
from linft.core.task import Task
from linft.core.trees import Tree
from linft.predict import replay
from linft.predict.dual import predictable
from linft.predict.feature_tangent import FeatureTangent, feature_tangent
from linft.predict.replay import Network, on_images
from linft.predict.span import BundleItems, OnBatch, Span, bundle, from_pretrained, items, lifted, span, stacked
from linft.training import optimizer
from linft.training.optimizer import Settings


def feature_dual(
    model: Model | FeatureTangent, task: Task | None = None, *, record_every: int | None = None, **kernel: Any
) -> "FeatureDual":
    """Predict fine-tuning from the features' kernel, replaying the real run's minibatches: a Run.

        φ = φ0 + Σ_g [Θφ_g a_g + (γ_g − 1) Jφ_g w0_g],   f = φ W + b

    With the full kernel exactly the training of `linearize(model, at="features")`, under all that `dual`
    follows; approximately with its trace, or along few directions. `many` as in `dual`.

    Args:
      model, task: from which the FeatureTangent is computed; or a FeatureTangent alone.
      record_every: measure every so many steps; about a dozen times by default.
      **kernel: groups, outputs, rank, draws, seed, batch_norm, engine, batch_size, progress of
        `predict.feature_tangent`.

    Raises:
      LinftError: no kernel predicts the recipe; as `feature_tangent`.

    Example:
      >>> import jax, linft
      >>> task = linft.load_task("digits").subset(10, 10)
      >>> model = linft.models.create("cifar_resnet8", 10, jax.random.key(0), width=4)
      >>> run = feature_dual(model, task, outputs="low-rank", rank=4)
      >>> run(linft.Recipe(learning_rate=0.01, batch_size=5, steps=4)).train_loss.shape
      (5,)
    """
    if isinstance(model, FeatureTangent):
        if task is not None or kernel:
            raise LinftError("a FeatureTangent carries its task and kernel already; pass it alone")
        return FeatureDual(model, record_every)
    if task is None:
        raise LinftError("pass a model and a task, or a FeatureTangent alone")
    return FeatureDual(feature_tangent(model, task, **kernel), record_every)


@dataclass(frozen=True)
class FeatureDual:
    """The Run that `feature_dual` gives."""

    tangent: FeatureTangent
    record_every: int | None = None

    @property
    def batch_norm(self) -> BatchNorm:
        """Of the recipes that it takes."""
        return self.tangent.projected.batch_norm

    def __call__(self, recipe: Recipe) -> Trajectory:
        return self.many([recipe])[0]

    def many(self, recipes: Iterable[Recipe]) -> list[Trajectory]:
        """One compiled program for all recipes of one structure and one sequence of minibatches."""
        taken = predictable(recipes, self.batch_norm, self.tangent.draws)
        return replay.many(taken, self.tangent.num_images, self._family)

    def _family(self, recipes: list[Recipe]) -> list[Trajectory]:
        t, rows = self.tangent, self.tangent.rows(recipes[0])
        settings = [optimizer.settings(recipe, t.groups, t.num_images) for recipe in recipes]
        bundles, below = bundle([s.on({g: s.groups[g] for g in t.projected.groups}) for s in settings])
        whole = below.on(below.groups | head_settings(settings, t.head_groups).groups)
        found = replay.replay(_network, items(bundles), t, whole, recipes, rows, self.record_every)
        return [replayed.trajectory for replayed in found]


def head_settings(settings: list[Settings], head_groups: tuple[tuple[str, str], ...]) -> Settings:
    """The settings of a head's arrays, stacked over recipes."""
    return stacked([s.on({_member(name): s.groups[g] for name, g in head_groups}) for s in settings])


def _member(name: str) -> str:
    """What an array of the head is called in the settings, apart from any bundle."""
    return f"(head) {name}"


def _network(names: BundleItems, t: FeatureTangent) -> Network:
    return under_head(lifted(span(names, from_pretrained(t.projected)), t.directions), t)


def under_head(below: Span, t: FeatureTangent) -> Network:
    """The network whose features move as a span says, from those of a tangent, under its head."""
    origin = {"below": below.origin, "head": t.head}

    def of_batch(at: Tree, batch: Array) -> OnBatch:
        of_features = below.of_batch(at["below"], batch)
        features = t.features_train[batch] + of_features.outputs

        def towards(residual: Array) -> Array:
            return residual @ at["head"]["kernel"].T  # W r_i

        def of_head(residual: Array) -> dict[str, Array]:
            found = {"kernel": features.T @ residual, "bias": residual.sum(0)}
            return {name: found[name] for name in at["head"]}

        def gradient(residual: Array) -> Tree:
            return {"below": of_features.gradient(towards(residual)), "head": of_head(residual)}

        def squares(residual: Array) -> dict[str, Array]:
            own = {_member(name): jnp.vdot(g, g) for name, g in of_head(residual).items()}
            return of_features.squares(towards(residual)) | own

        return OnBatch(dense(at["head"], features), gradient, squares)

    def logits(at: Tree) -> tuple[Array, Array]:
        on_train = t.features_train + below.on_train(at["below"])
        on_test = t.features_test + below.on_test(at["below"])
        return dense(at["head"], on_train), dense(at["head"], on_test)

    def lengths(at: Tree) -> dict[str, dict[str, Array]]:
        found = below.lengths(at["below"])
        of_head = {"distance": jax.tree.map(jnp.subtract, at["head"], t.head), "norm": at["head"]}
        for kind, arrays in of_head.items():
            for name, group in t.head_groups:
                others = found[kind].get(group, jnp.zeros(()))
                found[kind][group] = jnp.sqrt(others**2 + jnp.vdot(arrays[name], arrays[name]))
        return found

    network = Network(
        origin=origin,
        here=origin,
        groups={"below": {b: b for b in below.origin}, "head": {name: _member(name) for name in t.head}},
        of_batch=of_batch,
        logits=logits,
        lengths=lengths,
        towards=t.projected.labels_train,
        labels_train=t.projected.labels_train,
        labels_test=t.projected.labels_test,
    )
    return on_images(network, t.projected.draws)
