"""A network near a path of weights, in the weights themselves: what `predict.path` is to kernels, for any optimizer.

With the Jacobians J_k [n c p] at the anchors a_k at hand, outputs between two of them are those of `predict.path`,

    f(w) = h(s) + [(1 − s) J_k + s J_{k+1}] (w − a_k − s D),   s = ⟨w − a_k, D⟩ / ‖D‖²

on the segment that is nearest to w, and w is moved by the recipe's own chain, as Adam's, whose steps leave the span of
all Jacobians. Adam's way turns: it may never pass the end of a segment (s < 1) and follow the next one all the same.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from linft.core import trees
from linft.core.base import Model
from linft.core.trees import Tree
from linft.ntk.layerwise import explicit as layerwise
from linft.predict.anchors import Subject, outputs_along, whole
from linft.predict.explicit import ByName, ByPath, Jacobian, in_weights, jacobian, joined, weights_of
from linft.predict.path import PathOutputs, cubic, known
from linft.predict.span import OnBatch, Span, lifted
from linft.predict.tangent import outputs_on
from linft.runtime.progress import Count


class ExplicitPath(NamedTuple):
    """Anchors, the first of them the pretrained weights, and the Jacobians there."""

    jacobians: tuple[Jacobian, ...]
    train: PathOutputs
    test: PathOutputs
    directions: Float[Array, "o c"] | None
    """U, where the Jacobians are those of f U and f leaves the path along U."""


def about_weights(names: ByName, path: ExplicitPath) -> Span:
    """The outputs as functions of the weights, less those at w0.

    Args:
      names: by the path of every parameter, the stage that it counts to.
    """
    count, inner = len(path.jacobians), in_weights(names, path.jacobians[0])
    if count == 1:
        return inner if path.directions is None else lifted(inner, path.directions)
    anchors = joined(names, {name: jnp.stack([j.weights[name] for j in path.jacobians]) for name, _ in names})
    segments = jnp.diff(anchors, axis=0)
    between = segments @ segments.T
    squares = jnp.maximum(jnp.diagonal(between), jnp.finfo(between.dtype).tiny)
    before = jnp.tril(between, -1).sum(1)  # ⟨a_k − a_0, D_k⟩

    def outputs(at: ByPath, rows: list[Array], known: PathOutputs) -> Float[Array, "b o"]:
        w = joined(names, at)
        moved = segments @ (w - anchors[0])
        s = (moved - before) / squares
        segment = _nearest(*jax.lax.stop_gradient((s, moved, between)))
        s = jnp.where((s >= 0) & (s < 1), s, jax.lax.stop_gradient(jnp.clip(s, 0, 1)))[segment]
        share = jnp.zeros(count, w.dtype).at[segment].set(1 - s).at[segment + 1].set(s)
        offset = w - anchors[segment] - s * segments[segment]
        about: Array = sum(share[k] * (of_anchor @ offset) for k, of_anchor in enumerate(rows))  # pyright: ignore
        return cubic(s, segment, known) + (about if path.directions is None else about @ path.directions.T)

    def of_batch(at: ByPath, batch: Int[Array, "b"]) -> OnBatch:
        rows = [j.train[batch] for j in path.jacobians]
        on_batch = PathOutputs(*(values[:, batch] for values in path.train))
        found, back = jax.vjp(lambda at: outputs(at, rows, on_batch), at)

        def squares_of(residual: Array) -> dict[str, Array]:
            return {name: jnp.vdot(own, own) for name, own in back(residual)[0].items()}

        return OnBatch(found, lambda residual: back(residual)[0], squares_of)

    return inner._replace(
        on_train=lambda at: outputs(at, [j.train for j in path.jacobians], path.train),
        on_test=lambda at: outputs(at, [j.test for j in path.jacobians], path.test),
        of_batch=of_batch,
    )


def _nearest(s: Float[Array, "p"], moved: Float[Array, "p"], between: Float[Array, "p p"]) -> Int[Array, ""]:
    """The segment nearest to w, of equally near ones the last: by ‖w − q‖² − ‖w − a_0‖² of each segment's nearest q.

    Args:
      s: where on each segment w is.
      moved: ⟨w − a_0, D_k⟩.
      between: ⟨D_k, D_l⟩.
    """
    shares = jnp.tril(jnp.ones_like(between), -1) + jnp.diag(jnp.clip(s, 0, 1))  # of every D in q − a_0
    far = jnp.einsum("ki,ij,kj->k", shares, between, shares) - 2 * shares @ moved
    return len(far) - 1 - jnp.argmin(far[::-1])


class ExplicitAnchor(NamedTuple):
    """A network linearized at some weights,"""

    model: Model
    jacobian: Jacobian
    """there,"""
    outputs: tuple[Array, Array]
    """and its logits, or all features, for training and test images."""


@dataclass(frozen=True)
class ExplicitAnchors:
    """Some anchors, the first at w0, and J D along the segments between them: what `predict.anchors` is to kernels."""

    subject: Subject
    names: ByName
    """By the path of every parameter that is linearized, its stage."""
    anchors: tuple[ExplicitAnchor, ...]
    along: tuple[tuple[tuple[Array, Array], tuple[Array, Array]], ...]
    """Of every segment, where it begins and where it ends, for training and test images."""

    def and_at(self, end: Tree, names: ByName, progress: Count | None = None) -> "ExplicitAnchors":
        """One anchor more, at some weights."""
        last, model = self.anchors[-1], self.subject.at(self.weights(names, end))
        new = _anchor(self.subject, self.names, model, progress)
        direction = trees.subtract(*(whole(self.subject, anchor.model).params for anchor in (new, last)))
        leaving, arriving = (outputs_along(self.subject, anchor.model, direction) for anchor in (last, new))
        return replace(self, anchors=(*self.anchors, new), along=(*self.along, (leaving, arriving)))

    def weights(self, names: ByName, at: Tree) -> Tree:
        """Of the network, with those that are linearized elsewhere."""
        own = {name: jnp.asarray(at[name]) for name, _ in names}
        return layerwise.restored(self.anchors[0].model, self.subject.images[0], own)

    def path(self) -> ExplicitPath:
        """Along all anchors."""
        train, test = (
            known([a.outputs[i] for a in self.anchors], [(begin[i], end[i]) for begin, end in self.along])
            for i in (0, 1)
        )
        return ExplicitPath(tuple(a.jacobian for a in self.anchors), train, test, self.subject.directions)


def explicit_at_start(subject: Subject, names: ByName, count: int, progress: Count | None = None) -> ExplicitAnchors:
    """One anchor, at w0.

    Args:
      count: of all that there will be.

    Raises:
      Unavailable: too little memory.
    """
    model, images = subject.at(subject.params), sum(map(len, subject.images))
    weights_of(model, tuple(path for path, _ in names), subject.images[0], count * images)
    return ExplicitAnchors(subject, names, (_anchor(subject, names, model, progress),), ())


def _anchor(subject: Subject, names: ByName, model: Model, progress: Count | None) -> ExplicitAnchor:
    found = jacobian(model, names, subject.images, subject.how.batch_size, progress)
    on_train, on_test = (outputs_on(whole(subject, model), x) for x in subject.images)
    return ExplicitAnchor(model, found, (on_train, on_test))
