"""Predictions from a Tangent: replayed exactly, in closed form, in continuous time; and the stability edge."""

from linft.predict.dual import dual as dual
from linft.predict.dual import nearest as nearest
from linft.predict.dual import why_not as why_not
from linft.predict.tangent import tangent as tangent
from linft.predict.flow import gradient_flow as gradient_flow
from linft.predict.spectral import spectral as spectral
from linft.predict.stability import stability as stability
