"""An adapter of low rank, differentiated without the gradient of the kernel that it is added to where that can be.

Of a layer z = Wᵀ a with W = W0 + A B and the gradient δ at z,

    ∂A = Σ_p a_p ⊗ B δ_p    as of the layer whose kernel is A, where B δ is the gradient at its output,
    ∂B = Σ_p Aᵀ a_p ⊗ δ_p   as of a dense layer on that output;

and where the layer is of another kind, grouped or standardized, from its own rule's G = ∂W: ∂A = G Bᵀ, ∂B = Aᵀ G.
What the product A B counts, α/r, is for the caller to multiply δ with.
"""

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from linft.models.lora import A, B
from linft.ntk.layerwise.rules import PLAIN, RULES, Gradients, LayerRule


@cache
def adapted(rule: LayerRule) -> LayerRule:
    """The rule of a layer of which an adapter is all that is differentiated."""

    def direct(module: nn.Module) -> bool:
        return rule in PLAIN and getattr(module, "feature_group_count", 1) == 1

    def record(module: nn.Module, args: tuple, kwargs: dict) -> Any:
        kept = rule.record(module, args, kwargs)
        return kept if direct(module) else (kept, dict(module.variables["params"]))

    def gradients(module: nn.Module, params: Mapping[str, Array], kept: Any, delta: Array) -> Gradients:
        a, b = params[A], params[B]
        if not direct(module):
            return _of_kernel(rule, module, a, b, kept, delta)
        narrow: Any = module.clone(features=len(b), use_bias=False)  # pyright: ignore[reportCallIssue]
        along = narrow.apply({"params": {"kernel": a}}, kept)
        of_a = rule.gradients(narrow, {"kernel": a}, kept, delta @ b.T)
        of_b = RULES[0].gradients(narrow, {"kernel": b}, along, delta)
        return {A: of_a["kernel"], B: of_b["kernel"]}

    return LayerRule(rule.covers, record, gradients)


def _of_kernel(
    rule: LayerRule, module: nn.Module, a: Float[Array, "... r"], b: Float[Array, "r o"], kept: Any, delta: Array
) -> Gradients:
    of_layer, weights = kept
    rows, (rank, columns) = math.prod(a.shape[:-1]), b.shape
    found = rule.gradients(module, weights, of_layer, delta)["kernel"]
    examples = found.shape[:2]
    g = found.reshape(*examples, columns, rows)
    if rule is RULES[-1]:  # which leaves the kernel as it is laid out
        g = found.reshape(*examples, rows, columns).swapaxes(2, 3)
    of_a = jnp.einsum("bkoi,ro->bkri", g, b).reshape(*examples, rank * rows)
    of_b = jnp.einsum("bkoi,ir->bkor", g, a.reshape(rows, rank)).reshape(*examples, columns * rank)
    return {A: of_a, B: of_b}
