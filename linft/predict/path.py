"""A network near a path of weights: exact at its anchors, to first order about it, the Jacobian changing along it.

Between two anchors a and a' = a + D let s = ⟨w − a, D⟩ / ‖D‖², held to 0 … 1. With the Jacobians J and J' there,

    f(w) = h(s) + [(1 − s) J + s J'] (w − a − s D)

where h is the cubic with h(0) = f(a), h'(0) = J D, h(1) = f(a'), h'(1) = J' D. So a network of degree two in the
weights that bends along D only is met exactly. The gradient is (1 − s) Jᵀr + s J'ᵀr and a multiple of D, which itself
lies in the span of the Jacobians before it: the weights stay w_g = γ_g w0_g + Σ_k J_k,gᵀ α_k,g, and the coordinates
are those of a tangent whose images are those of every anchor. Beyond the last anchor f is linear.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from linft.core.base import Tangent
from linft.predict.span import At, BundleItems, Coordinates, OnBatch, Span, from_pretrained, lifted, span, weighted


class PathOutputs(NamedTuple):
    """Outputs along a path of K anchors, for some images; less those at the first."""

    at: Float[Array, "K n o"]
    """f(a_k) − f(a_0)."""
    leaving: Float[Array, "p n o"]
    """J_k D_k where each segment begins."""
    arriving: Float[Array, "p n o"]
    """J_{k+1} D_k where it ends."""


class Path(NamedTuple):
    """Anchors, the first of them the pretrained weights, and the segments between them."""

    tangent: Tangent
    """Of the Jacobians at all anchors, one after another: its images are [K n] and [K m]."""
    segments: At
    """D = Σ_k J_kᵀ α_k + γ w0 of each, with a leading axis: α [K − 1, K n, c] and γ [K − 1, 1]."""
    train: PathOutputs
    test: PathOutputs
    directions: Float[Array, "o c"] | None
    """U, where the Jacobians are those of f U and f leaves the path along U."""


def about(names: BundleItems, path: Path) -> Span:
    """The outputs at coordinates of bundles, less those at w0.

    Args:
      names: bundles of groups whose weight is 1, since a part of the gradient is a multiple of D in all groups.
    """
    inner = span(names, from_pretrained(path.tangent))
    count = len(path.train.at)
    if count == 1:
        return inner if path.directions is None else lifted(inner, path.directions)
    by_bundle = {b: jax.vmap(inner.on_train)(_as_coordinates({b: d})) for b, d in path.segments.items()}
    along_train: Array = sum(by_bundle.values())  # pyright: ignore
    along_test = jax.vmap(inner.on_test)(_as_coordinates(path.segments))
    products, between = _products(names, path.tangent, path.segments, by_bundle)
    lengths = {b: jnp.diagonal(of_b) for b, of_b in between.items()}  # ‖D_k‖²
    squares: Array = sum(lengths.values())  # pyright: ignore
    before = jnp.tril(sum(between.values()), -1).sum(1)  # ⟨a_k − w0, D_k⟩

    def where(at: At) -> tuple[Int[Array, ""], Float[Array, ""], Array]:
        """The segment, s on it, and whether s moves with the weights."""
        s = (sum(products(at).values()) - before) / jnp.maximum(squares, jnp.finfo(squares.dtype).tiny)
        passed = jnp.cumprod(s >= 1).sum()
        segment = jnp.minimum(passed, count - 2)
        return segment, jnp.clip(s[segment], 0, 1), (s[segment] >= 0) & (s[segment] < 1)

    def outputs(segment: Array, s: Array, moved: Array, along: Array, known: PathOutputs) -> Float[Array, "b o"]:
        """From J_k (w − w0) and J_k D_i of every anchor and segment."""
        first = segment + 1
        offsets = jnp.where(jnp.arange(count - 1)[:, None, None, None] < segment, along, 0).sum(0)  # J_k (a − w0)
        from_start = moved[segment] - offsets[segment] - s * along[segment, segment]
        from_end = moved[first] - offsets[first] - s * along[segment, first]
        about = (1 - s) * from_start + s * from_end
        return cubic(s, segment, known) + (about if path.directions is None else about @ path.directions.T)

    def everywhere(on: Callable[[At], Array], along: Array, known: PathOutputs) -> Callable[[At], Array]:
        def moved(at: At) -> Array:
            segment, s, _ = where(at)
            return outputs(segment, s, _by_anchor(on(at), count), _by_anchor(along, count), known)

        return moved

    def of_batch(at: At, batch: Array) -> OnBatch:
        rows = (jnp.arange(count)[:, None] * path.train.at.shape[1] + batch[None, :]).reshape(-1)
        on_rows = inner.of_batch(at, rows)
        segment, s, moves = where(at)
        known = PathOutputs(*(values[:, batch] for values in path.train))
        value, slope = jax.jvp(
            lambda s: outputs(
                segment, s, _by_anchor(on_rows.outputs, count), _by_anchor(along_train[:, rows], count), known
            ),
            (s,),
            (jnp.ones_like(s),),
        )  # fmt: skip

        def split(residual: Array) -> tuple[Array, Array]:
            """That of the rows of all anchors, and the multiple of D."""
            below = residual if path.directions is None else residual @ path.directions
            share = jnp.zeros(count, s.dtype).at[segment].set(1 - s).at[segment + 1].set(s)
            of_rows = (share[:, None, None] * below[None]).reshape(-1, below.shape[1])
            return of_rows, moves * jnp.vdot(slope, residual) / squares[segment]

        def gradient(residual: Array) -> At:
            of_rows, forward = split(residual)
            return {
                b: Coordinates(*(x + forward * d[segment] for x, d in zip(of_b, path.segments[b], strict=True)))
                for b, of_b in on_rows.gradient(of_rows).items()
            }

        def squared(residual: Array) -> dict[str, Array]:
            of_rows, forward = split(residual)
            return {
                b: square
                + 2 * forward * jnp.vdot(of_rows, by_bundle[b][segment, rows])
                + forward**2 * lengths[b][segment]
                for b, square in on_rows.squares(of_rows).items()
            }

        return OnBatch(value, gradient, squared)

    return inner._replace(
        on_train=everywhere(inner.on_train, along_train, path.train),
        on_test=everywhere(inner.on_test, along_test, path.test),
        of_batch=of_batch,
    )


def known(outputs: Sequence[Array], ends: Sequence[tuple[Array, Array]]) -> PathOutputs:
    """Of outputs at every anchor, and J D at both ends of every segment."""
    nothing = jnp.zeros((0, *outputs[0].shape))
    leaving, arriving = (jnp.stack([pair[i] for pair in ends]) if ends else nothing for i in (0, 1))
    return PathOutputs(jnp.stack(outputs) - outputs[0][None], leaving, arriving)


def cubic(s: Float[Array, ""], segment: Int[Array, ""], known: PathOutputs) -> Float[Array, "n o"]:
    """h(s) on a segment."""
    return (
        (1 + 2 * s) * (1 - s) ** 2 * known.at[segment]
        + s * (1 - s) ** 2 * known.leaving[segment]
        + s**2 * (3 - 2 * s) * known.at[segment + 1]
        - s**2 * (1 - s) * known.arriving[segment]
    )


def _by_anchor(stacked: Float[Array, "*p kn c"], count: int) -> Float[Array, "*p k n c"]:
    return stacked.reshape(*stacked.shape[:-2], count, -1, stacked.shape[-1])


def _as_coordinates(moves: At) -> At:
    """Those of w0 + D."""
    return {b: x._replace(gamma=x.gamma + 1) for b, x in moves.items()}


def _products(
    names: BundleItems, t: Tangent, segments: At, along: Mapping[str, Float[Array, "p kn c"]]
) -> tuple[Callable[[At], dict[str, Float[Array, "p"]]], dict[str, Float[Array, "p p"]]]:
    """By bundle ⟨w − w0, D⟩ of every segment as a function of coordinates, and ⟨D, D'⟩; from J D of every bundle."""
    with_w0 = {}
    for b, weights in names:
        pushed, square = (weighted(of, dict(weights)) for of in (t.weights_train, t.squared_norms))
        with_w0[b] = jnp.tensordot(segments[b].alpha, pushed, 2) + segments[b].gamma[:, 0] * square

    def products(at: At) -> dict[str, Float[Array, "p"]]:
        return {b: jnp.tensordot(along[b], x.alpha, 2) + with_w0[b] * (x.gamma[0] - 1) for b, x in at.items()}

    return products, jax.vmap(lambda moves: products(_as_coordinates(moves)))(segments)
