"""How a model's network is followed: layer by layer, or by primitives where no rule has its layers."""

from jaxtyping import Array, Float

from linft.core.base import Model
from linft.ntk.layerwise import plan
from linft.ntk.layerwise.plan import Layer
from linft.ntk.primitives.network import TracedNetwork, network

Plan = tuple[Layer, ...] | TracedNetwork


def follow(model: Model, x: Float[Array, "n ..."]) -> Plan:
    """The layers of a model with parameters, in call order, or its network where rules do not cover them.

    Raises:
      LinftError: as of `network`.
    """
    try:
        return plan.plan(model, x)
    except plan.Uncovered as reason:
        return network(model, x, str(reason))
