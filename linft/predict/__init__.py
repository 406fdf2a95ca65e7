"""Predictions from a Tangent: replayed exactly, in closed form, in continuous time; and the stability edge."""

from linft.predict.dual import dual as dual
from linft.predict.dual import nearest as nearest
from linft.predict.dual import why_not as why_not
from linft.predict.flow import gradient_flow as gradient_flow
from linft.predict.flow import why_not as why_not_flow
from linft.predict.spectral import spectral as spectral
from linft.predict.spectral import why_not as why_not_spectral
from linft.predict.stability import stability as stability
from linft.predict.tangent import tangent as tangent

__all__ = [
    "dual", "gradient_flow", "nearest", "spectral", "stability", "tangent", "why_not", "why_not_flow",
    "why_not_spectral",
]  # fmt: skip
