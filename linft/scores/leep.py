"""Log expected empirical prediction."""

import numpy as np
from jaxtyping import ArrayLike, Float, Integer

from linft.core.errors import LinftError
from linft.scores.inputs import class_numbers, finite, one_hot
from linft.scores.undefined import Undefined


def leep(probabilities: Float[ArrayLike, "n s"], labels: Integer[ArrayLike, "n"]) -> float:
    """Mean log Σ_z P̂(y_i | z) p_iz, from the source head's probabilities p_iz = softmax(f(x_i))_z.

    P̂(y | z) = P̂(y, z) / P̂(z) with P̂(y, z) = (1/n) Σ_{i of class y} p_iz, the empirical joint distribution
    of target and source labels. A source class without mass adds nothing. At most 0, in nats.

    Nguyen and others 2020, *LEEP: a new measure to evaluate transferability of learned representations*,
    eq. 2.

    Raises:
      LinftError: there are not as many labels as rows.
      Undefined: there is one class only, or rows are no probabilities.

    Example:
      >>> import numpy as np
      >>> round(leep(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1])), 4)
      -0.2911
    """
    y, p = one_hot(class_numbers(labels)), finite(probabilities, "probabilities")
    if p.ndim != 2 or len(p) != len(y):
        raise LinftError(f"probabilities of shape {p.shape} and {len(y)} labels; give one row a label")
    if p.min(initial=0.0) < 0 or np.abs(p.sum(1) - 1).max(initial=0.0) > 1e-2:
        raise Undefined("rows are no probabilities: not negative and with sum 1; give the softmax of the logits")
    joint = y.T @ p  # [c s], times n
    mass = joint.sum(0)
    given = np.divide(joint, mass, out=np.zeros_like(joint), where=mass > 0)
    return float(np.log(np.sum((y @ given) * p, axis=1)).mean())
