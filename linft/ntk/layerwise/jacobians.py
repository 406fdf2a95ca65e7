"""The Jacobians of a batch of images, layer by layer, from one forward and one vmapped backward pass.

An interceptor catches every layer's input and adds a zero perturbation to its output; the gradient
with respect to the perturbations, vmapped over output directions, is every layer's output gradient,
no deeper than the layers that are asked for. Rules turn these into per-example parameter gradients.
The head is in closed form: for output directions E [k c] and features φ its kernel is
(φφ'ᵀ + 1) ⊗ EEᵀ. Layers whose channels each feed one feature take one backward pass for all outputs
(`factored`). A network that is not followed by its layers has programs of its own (`primitives.derivatives`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from linft.core import trees
from linft.core.base import Model, Outputs
from linft.core.constants import CONSTANTS
from linft.core.trees import Tree
from linft.models import lora
from linft.models.training_mode import Coupled, coupling
from linft.ntk.layerwise import conv_norm, factored
from linft.ntk.layerwise.follow import Plan
from linft.ntk.layerwise.plan import Layer, interceptor, own
from linft.ntk.layerwise.rules import laid_out
from linft.ntk.primitives import derivatives
from linft.ntk.primitives.derivatives import Derivatives
from linft.ntk.primitives.network import TracedNetwork, check_alone
from linft.ntk.rows import Rows, add_gradients, add_head


@dataclass(frozen=True)
class Wanted:
    """Which layers' gradients are computed, and how: what one compiled program is for."""

    layers: tuple[Layer, ...]
    labels: tuple[tuple[str, str], ...]
    """(parameter path, group), of the parameters wanted."""
    head: str
    outputs: Outputs
    factored: frozenset[int] = frozenset()
    """Layers whose channels each feed one feature."""
    sketch: tuple[int, int] | None = None
    """Dimensions and seed of the random projection of parameters with more numbers."""

    def ask(self, i: int) -> bool:
        """Whether a layer has parameters that are wanted."""
        return any(path.startswith(self.layers[i].path + "/") for path, _ in self.labels)

    def joined(self, i: int) -> int | None:
        """The layer that is differentiated together with this norm, if it is."""
        source = self.layers[i].normalizes
        return source if source is not None and self.ask(source) else None

    def perturbed(self) -> tuple[int, ...]:
        """The layers at whose outputs the gradient is taken."""
        norms = {self.joined(i): i for i in range(len(self.layers))}
        return tuple(dict.fromkeys(norms.get(i, i) for i in range(len(self.layers)) if self.ask(i)))


def program(forward: Callable, wanted: Wanted | Derivatives) -> Callable:
    """(params, batch_stats, x [b …], E [k c], offsets) -> (Rows, what `factored` measured), jitted.

    `offsets` says for each factored layer which feature its first channel feeds.
    """
    return (_program if isinstance(wanted, Wanted) else derivatives.program)(forward, wanted)


@lru_cache(maxsize=32)
def _program(forward: Callable, wanted: Wanted) -> Callable:
    perturbed = wanted.perturbed()

    def passes(params: Tree, batch_stats: Tree, x: Array, zeros: dict[int, Array]) -> tuple:
        kept: dict[int, Any] = {}
        calls = iter(range(len(wanted.layers)))

        def visit(module: nn.Module, path: str, args: tuple, kwargs: dict, output: Array) -> Array:
            i = next(calls)
            source = wanted.joined(i)
            if wanted.ask(i) and source is None:
                kept[i] = wanted.layers[i].rule.record(module, args, kwargs)
            if source is not None:
                kept[i] = conv_norm.record(module, args[0])
            return output + zeros[i] if i in zeros else output

        with nn.intercept_methods(interceptor(params, wanted.head, visit)):
            logits, features = forward(params, batch_stats, x)
        return (logits, features), (kept, features)

    def gradients(params: Tree, kept: dict[int, Any], i: int, delta: Array) -> dict[str, Array]:
        """By parameter path, [b k size], of a layer and of what is differentiated together with it."""
        layer, source = wanted.layers[i], wanted.joined(i)
        if source is None:
            found = layer.rule.gradients(layer.module, own(params, layer.path), kept[i], delta)
            return {f"{layer.path}/{name}": g for name, g in found.items()}
        below, norm = wanted.layers[source], own(params, layer.path)
        of_layer, of_norm = conv_norm.gradients(
            below.rule, below.module, own(params, below.path), norm.get("scale"), kept[source], kept[i], delta
        )
        found = {f"{below.path}/{name}": g for name, g in of_layer.items()}
        return found | {f"{layer.path}/{name}": of_norm[name] for name in norm}

    @jax.jit
    def rows(params: Tree, batch_stats: Tree, x: Array, cotangents: Array, offsets: Array) -> tuple[Rows, Any]:
        zeros = {i: jnp.zeros((len(x), *wanted.layers[i].output.shape[1:]), x.dtype) for i in perturbed}
        (logits, features), pull, (kept, _) = jax.vjp(lambda z: passes(params, batch_stats, x, z), zeros, has_aux=True)
        groups = dict(wanted.labels)
        found = Rows({}, {}, {}, {})
        every = jnp.broadcast_to(cotangents[:, None, :], (len(cotangents), len(x), cotangents.shape[1]))
        deltas = jax.vmap(lambda e: pull((e, jnp.zeros_like(features)))[0])(every)
        if CONSTANTS in batch_stats:
            deltas = jax.tree.map(lambda delta: lora.scale(batch_stats) * delta, deltas)
        summed: dict[str, Array] = {}
        for i in perturbed:
            if i not in wanted.factored:
                for path, gradient in gradients(params, kept, i, deltas[i]).items():
                    if path in groups:  # a layer called twice adds up
                        summed[path] = summed[path] + gradient if path in summed else gradient
        if isinstance(forward, Coupled):
            felt = coupling(forward, params, batch_stats, x, cotangents)
            rules = {layer.path: layer.rule for layer in wanted.layers}
            for path in summed:
                of_statistics = laid_out(rules[path.rpartition("/")[0]], batch_stats["rows"][path])
                summed[path] = summed[path] + jnp.einsum("bkr,rp->bkp", felt, of_statistics)
        measured = []
        if wanted.factored:
            directions = jnp.stack([jnp.ones(features.shape[1:]), factored.weights(features.shape[1])]).astype(x.dtype)
            of_features = jax.vmap(lambda w: pull((jnp.zeros_like(logits), jnp.broadcast_to(w, features.shape)))[0])(
                directions
            )
            towards = cotangents @ trees.get(params, wanted.head)["kernel"].T
            for offset, i in zip(offsets, sorted(wanted.factored), strict=True):
                one, weighed = of_features[i]
                measured.append(factored.ratios(one, weighed))
                along = jax.lax.dynamic_slice_in_dim(towards, offset, one.shape[-1], 1)
                for path, gradient in gradients(params, kept, i, one[None]).items():
                    if path in groups and wanted.outputs == "full":
                        h = gradient.reshape(len(gradient), along.shape[1], -1)
                        found.factored.setdefault(groups[path], []).append((h, along))
                    elif path in groups:
                        summed[path] = factored.traced(gradient, along)
        add_gradients(found, summed, groups, wanted.sketch)
        add_head(found, features, {path: g for path, g in groups.items() if path.startswith(wanted.head + "/")})
        return found, measured

    return rows


def rows(
    model: Model,
    plan: Plan,
    labels: Mapping[str, str],
    cotangents: Float[Array, "k c"],
    outputs: Outputs,
    sketch: tuple[int, int] | None = None,
) -> Callable[[Float[Array, "b ..."]], Rows]:
    """A function from a batch of inputs to its rows, for the parameters that `labels` names."""
    settled = settling(model, plan, labels, cotangents, outputs, sketch)

    def of_batch(x: Array) -> Rows:
        chosen, offsets, found = settled(x)
        if found is not None:
            return found
        return program(model.forward, chosen)(model.params, model.batch_stats, x, cotangents, offsets)[0]

    return of_batch


def settling(
    model: Model,
    plan: Plan,
    labels: Mapping[str, str],
    cotangents: Float[Array, "k c"],
    outputs: Outputs,
    sketch: tuple[int, int] | None = None,
) -> Callable[[Float[Array, "b ..."]], tuple[Wanted | Derivatives, np.ndarray, Rows | None]]:
    """A function that says what program to run and with which offsets, as the first batch shows, and `settle`."""
    settled: list[tuple[Wanted | Derivatives, np.ndarray]] = []

    def of_batch(x: Array) -> tuple[Wanted | Derivatives, np.ndarray, Rows | None]:
        found = None
        if settled:
            return *settled[0], None
        if isinstance(plan, TracedNetwork):
            check_alone(model, x)
            settled.append((Derivatives(tuple(labels.items()), plan.head, sketch), np.zeros(0, np.int32)))
        else:
            asked = with_candidates(model, Wanted(plan, tuple(labels.items()), model.head, outputs, sketch=sketch))
            width = trees.get(model.params, model.head)["kernel"].shape[0]
            chosen, offsets, found = settle(model, asked, width, x, cotangents)
            settled.append((chosen, offsets))
        return *settled[0], found

    return of_batch


def with_candidates(model: Model, wanted: Wanted) -> Wanted:
    """With every layer taken for factored that could be, by where its output goes.

    In training mode none is: through the statistics every channel feeds every feature.
    """
    last = () if isinstance(model.forward, Coupled) else wanted.perturbed()
    return replace(wanted, factored=frozenset(i for i in last if wanted.layers[i].last))


def settle(
    model: Model, wanted: Wanted, width: int, x: Array, cotangents: Array
) -> tuple[Wanted, np.ndarray, Rows | None]:
    """Which layers are factored, and with which features, as the gradients of a batch show.

    With them the rows of the batch, where it was differentiated in just that way to find out.
    """
    candidates = sorted(wanted.factored)
    offsets = np.array([width - wanted.layers[i].output.shape[-1] for i in candidates], np.int32)
    if not candidates or offsets.min() < 0:  # outputs make no difference then, and share a program
        return replace(wanted, factored=frozenset(), outputs="full"), offsets[:0], None
    rows, measured = program(model.forward, wanted)(model.params, model.batch_stats, x, cotangents, offsets)
    found = [factored.offset(np.asarray(f), np.asarray(r), np.asarray(s), width) for f, r, s in measured]
    fitting = frozenset(i for i, o in zip(candidates, found, strict=True) if o is not None)
    if found == offsets.tolist():
        return wanted, offsets, rows
    return replace(wanted, factored=fitting), np.array([o for o in found if o is not None], np.int32), None
