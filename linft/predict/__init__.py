"""Predictions from kernels, of network or features: replayed, in closed form, in continuous time; stability."""

from linft.predict.augmented import augmented as augmented
from linft.predict.dual import dual as dual
from linft.predict.dual import nearest as nearest
from linft.predict.dual import why_not as why_not
from linft.predict.explicit import explicit as explicit
from linft.predict.explicit import why_unavailable as why_not_explicit
from linft.predict.feature_dual import feature_dual as feature_dual
from linft.predict.feature_tangent import FeatureTangent as FeatureTangent
from linft.predict.feature_tangent import feature_tangent as feature_tangent
from linft.predict.flow import gradient_flow as gradient_flow
from linft.predict.flow import why_not as why_not_flow
from linft.predict.moving import moving as moving
from linft.predict.relinearized import relinearized as relinearized
from linft.predict.sharpening import sharpening as sharpening
from linft.predict.spectral import spectral as spectral
from linft.predict.spectral import why_not as why_not_spectral
from linft.predict.stability import stability as stability
from linft.predict.tangent import tangent as tangent

__all__ = [
    "FeatureTangent", "augmented", "dual", "explicit", "feature_dual", "feature_tangent", "gradient_flow", "moving",
    "nearest", "relinearized", "sharpening", "spectral", "stability", "tangent", "why_not", "why_not_explicit",
    "why_not_flow", "why_not_spectral",
]  # fmt: skip
