"""Negative conditional entropy of the labels given those of the source."""

import numpy as np
from jaxtyping import ArrayLike, Integer

from linft.core.errors import LinftError
from linft.scores.inputs import class_numbers, numbered


def nce(source_labels: Integer[ArrayLike, "n"], labels: Integer[ArrayLike, "n"]) -> float:
    """−H(Y | Z) = Σ_yz P̂(y, z) log P̂(y | z), where z is the source class that the model gives an image.

    At most 0, in nats: 0 where the source class tells the target class.

    Tran and others 2019, *Transferability and hardness of supervised classification tasks*.

    Raises:
      LinftError: there are not as many labels as source labels.
      Undefined: there is one class only.

    Example:
      >>> import numpy as np
      >>> round(nce(np.array([5, 5, 7, 7]), np.array([0, 1, 1, 1])), 4)
      -0.3466
    """
    y = class_numbers(labels)
    z = numbered(source_labels, "source labels")
    if len(z) != len(y):
        raise LinftError(f"{len(z)} source labels and {len(y)} labels; give one of each an image")
    joint = np.zeros((z.max() + 1, y.max() + 1))
    np.add.at(joint, (z, y), 1)
    return float(np.log(joint[z, y] / joint.sum(1)[z]).mean())
